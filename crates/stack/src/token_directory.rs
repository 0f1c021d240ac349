//! A projected token volume with the kubelet's layout and rotation.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

const FILE_NAME: &str = "azure-identity-token";
const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// The location of the token in the volume that the workload-identity webhook configures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Version 1.6.0 and later: `token/azure-identity-token`. A rotation changes only the volume's root, never the file's own folder.
    #[default]
    Webhook160,
    /// Up to version 1.5.1: `azure-identity-token` in the volume's root.
    Webhook151,
}

impl Layout {
    /// The folder of the token file below the volume's root; `None` when the file is in the root.
    fn folder(self) -> Option<&'static str> {
        match self {
            Self::Webhook160 => Some("token"),
            Self::Webhook151 => None,
        }
    }

    /// The path of the token file relative to the volume's root.
    fn file(self) -> PathBuf {
        self.folder().map(PathBuf::from).unwrap_or_default().join(FILE_NAME)
    }

    /// The name of the link in the volume's root that points into `..data`.
    fn link(self) -> &'static str {
        self.folder().unwrap_or(FILE_NAME)
    }
}

/// The token volume of a pod: a folder `..<time>` with the token, a link `..data` to it, and a link from the root into `..data`.
#[derive(Debug)]
pub struct TokenDirectory {
    root: PathBuf,
    layout: Layout,
}

impl TokenDirectory {
    /// Creates the volume at `root`, which can exist but must be empty. Writes `token` unchanged: the kubelet adds no trailing newline.
    pub fn create(root: impl Into<PathBuf>, layout: Layout, token: &str) -> io::Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root)?;
        // Envoy requires absolute paths.
        let directory = Self { root: root.canonicalize()?, layout };
        directory.publish(token)?;
        symlink(Path::new(CURRENT).join(layout.link()), directory.root.join(layout.link()))?;
        Ok(directory)
    }

    /// The path of the token file, as in `AZURE_FEDERATED_TOKEN_FILE`.
    pub fn file(&self) -> PathBuf {
        self.root.join(self.layout.file())
    }

    /// The folder to watch for rotations, which contains `..data`.
    pub fn watched(&self) -> &Path {
        &self.root
    }

    /// Replaces the token atomically, as the kubelet does. A watch on the file's own folder does not notice it.
    pub fn rotate(&self, token: &str) -> io::Result<()> {
        let former = fs::read_link(self.root.join(CURRENT))?;
        self.publish(token)?;
        fs::remove_dir_all(self.root.join(former))
    }

    /// Writes a new timestamped folder and points `..data` to it.
    fn publish(&self, token: &str) -> io::Result<()> {
        let name = timestamped(OffsetDateTime::now_utc());
        let folder = self.root.join(&name);
        let file = folder.join(self.layout.file());
        fs::create_dir(&folder)?;
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, token)?;
        symlink(&name, self.root.join(NEXT))?;
        fs::rename(self.root.join(NEXT), self.root.join(CURRENT))
    }
}

/// Returns the kubelet's name for a folder.
fn timestamped(at: OffsetDateTime) -> String {
    format!(
        "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}.{:09}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.nanosecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_layout_of_webhook_1_6_0_has_the_token_in_a_folder_of_the_volume() {
        let temporary = tempfile::tempdir().unwrap();
        let volume = TokenDirectory::create(temporary.path().join("wi"), Layout::Webhook160, "first").unwrap();

        assert!(volume.file().ends_with("wi/token/azure-identity-token"));
        assert!(volume.watched().ends_with("wi"));
        assert_eq!(fs::read_to_string(volume.file()).unwrap(), "first");
        assert_eq!(fs::read_link(volume.watched().join("token")).unwrap(), Path::new("..data/token"));
    }

    #[test]
    fn the_layout_up_to_webhook_1_5_1_has_the_token_in_the_volumes_root() {
        let temporary = tempfile::tempdir().unwrap();
        let volume = TokenDirectory::create(temporary.path().join("tokens"), Layout::Webhook151, "first").unwrap();

        assert!(volume.file().ends_with("tokens/azure-identity-token"));
        assert!(volume.watched().ends_with("tokens"));
        assert_eq!(fs::read_to_string(volume.file()).unwrap(), "first");
        assert_eq!(fs::read_link(volume.file()).unwrap(), Path::new("..data/azure-identity-token"));
    }

    #[test]
    fn a_rotation_replaces_the_link_and_removes_the_former_folder() {
        for layout in [Layout::Webhook160, Layout::Webhook151] {
            let temporary = tempfile::tempdir().unwrap();
            let volume = TokenDirectory::create(temporary.path(), layout, "first").unwrap();
            let former = fs::read_link(volume.watched().join("..data")).unwrap();

            volume.rotate("second").unwrap();

            let current = fs::read_link(volume.watched().join("..data")).unwrap();
            assert_ne!(former, current);
            assert_eq!(fs::read_to_string(volume.file()).unwrap(), "second");
            let current = current.to_str().unwrap().to_owned();
            assert_eq!(entries(volume.watched()), [current, "..data".to_owned(), layout.link().to_owned()]);
        }
    }

    #[test]
    fn folders_have_the_kubelets_timestamp_names() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_795_333_933_285_818_941).unwrap();

        assert_eq!(timestamped(at), "..2026_11_22_07_52_13.285818941");
    }
}
