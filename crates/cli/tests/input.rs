//! Input that cannot be used is one clear line and exit code 2; what is only unusual is read.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_entra-exchange"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_vec();
    // The command may end without reading all of it.
    let writer = std::thread::spawn(move || drop(input.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Runs `check` on a file with this content; returns the exit code, standard output and standard error.
fn check(name: &str, content: &[u8], more: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let arguments = [&["check", path.to_str().unwrap()], more].concat();
    let output = run(&arguments, b"");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(path.to_str().unwrap(), name);
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const GOOD: &str = "destinations:\n- { hosts: [api.example.com], action: pass }\n";

#[test]
fn content_that_is_not_text_is_one_line_and_exit_code_2() {
    let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let large = vec![b' '; 50_000_000];
    let cases: [(&[u8], &str); 5] = [
        (&utf16, "f.json is encoded as UTF-16: save it as UTF-8"),
        (b"{\n\"a\": \"\xff\" }", "f.json is not valid UTF-8 in line 2: save it as UTF-8"),
        (b"{\n\"a\": \"b\0c\" }", "f.json has a NUL character in line 2: it is not a text file"),
        (&large, "f.json is larger than 8 MB, so it is not checked"),
        (&[0xfe, 0xff, 0, b'{'], "f.json is encoded as UTF-16: save it as UTF-8"),
    ];
    for (content, line) in cases {
        assert_eq!(check("f.json", content, &[]), (2, String::new(), format!("entra-exchange: {line}\n")));
    }
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_and_exit_code_2() {
    let stderr = |arguments: &[&str]| {
        let output = run(arguments, GOOD.as_bytes());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let line = |text: &str| (2, format!("entra-exchange: {text}\n"));
    assert_eq!(stderr(&["check", "/"]), line("/ is a directory: name its files, such as FOLDER/*.yaml"));
    assert_eq!(stderr(&["check", "/nowhere"]), line("/nowhere does not exist: check its name"));
    let twice = line("- is given twice: standard input can be read once");
    assert_eq!(stderr(&["check", "-", "-"]), twice);
    let token = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/token.jwt");
    assert_eq!(stderr(&["inspect", token, "--credentials", "-", "--jwks", "-"]).0, 2);
    assert_eq!(stderr(&["credentials", "-", "--token", "-"]), twice);
    assert_eq!(stderr(&["check"]).0, 2);
    assert_eq!(stderr(&["check", "-", "--accept", "x"]), line("--accept x: no finding has this code"));
}

#[test]
fn a_file_without_permission_is_one_line_and_exit_code_2() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.yaml");
    std::fs::write(&path, GOOD).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = run(&["check", path.to_str().unwrap()], b"");
    // The superuser may read it.
    if std::fs::read(&path).is_err() {
        let line = format!("entra-exchange: {} cannot be read: permission denied\n", path.display());
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(2), line));
    } else {
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn an_alias_bomb_is_one_line_and_exit_code_2_for_every_verb_that_reads_yaml() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let line = "entra-exchange: standard input has YAML aliases that expand to more than 500000 values: write the values out\n";
    for arguments in [
        &["check", "-"][..],
        &["explain", "-", "--url", "http://a.example/"],
        &["render", "-", "--for", "envoy"],
        &["credentials", "-"],
        &["detect", "-"],
        &["audit", "-"],
    ] {
        let output = run(arguments, bomb.as_bytes());
        let printed = (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap());
        assert_eq!(printed, (Some(2), Vec::new(), line.to_owned()), "{arguments:?}");
    }
}

#[test]
fn deep_nesting_is_a_finding() {
    for name in ["f.yaml", "f.json"] {
        let (code, stdout, _) = check(name, &b"[".repeat(100_000), &[]);
        assert!(code == 1 && stdout.contains("1 error"), "{stdout}");
    }
}

#[test]
fn crlf_is_read_and_standard_input_too() {
    let crlf = GOOD.replace('\n', "\r\n");
    assert_eq!(check("f.yaml", crlf.as_bytes(), &[]).0, 0);
    let output = run(&["check", "-"], GOOD.as_bytes());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "0 errors, 0 warnings in 1 configuration of the filter\n");
}

#[test]
fn a_warning_is_an_error_with_strict_and_none_if_it_is_accepted() {
    let risky = "destinations:\n- { hosts: [api.example.com], scope: api://a/.default, plaintext: allow }\n";
    let code = |more: &[&str]| check("f.yaml", risky.as_bytes(), more).0;
    assert_eq!((code(&[]), code(&["--strict"])), (0, 1));
    assert_eq!(code(&["--strict", "--accept", "plaintext_allowed"]), 0);
    let comment = format!("# entra-exchange check: accept plaintext_allowed, because it is a test.\n{risky}");
    assert_eq!(check("f.yaml", comment.as_bytes(), &["--strict"]).0, 0);
}

#[test]
fn json_and_sarif_name_the_same_place_as_the_text() {
    let wrong = b"{ \"destinations\": [ { \"hosts\": [\"a.example\"], \"action\": \"x\" } ] }";
    let parsed = |form: &str| -> serde_json::Value {
        let (code, stdout, _) = check("f.json", wrong, &["--output", form]);
        assert_eq!(code, 1);
        serde_json::from_str(&stdout).unwrap()
    };
    let json = &parsed("json")["findings"][0];
    assert_eq!(
        (json["line"].as_u64(), json["column"].as_u64(), json["end_column"].as_u64()),
        (Some(1), Some(57), Some(60))
    );
    assert_eq!((json["code"].as_str(), json["path"].as_str()), (Some("invalid_value"), Some("destinations[0].action")));
    let sarif = parsed("sarif");
    let result = &sarif["runs"][0]["results"][0];
    let region = &result["locations"][0]["physicalLocation"]["region"];
    assert_eq!((region["startLine"].as_u64(), region["startColumn"].as_u64()), (Some(1), Some(57)));
    let rule = &sarif["runs"][0]["tool"]["driver"]["rules"][result["ruleIndex"].as_u64().unwrap() as usize];
    assert_eq!((result["ruleId"].as_str(), rule["id"].as_str()), (Some("invalid_value"), Some("invalid_value")));
}

#[test]
fn a_token_with_something_around_it_is_never_printed() {
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzIn0.c2lnbmF0dXJl";
    let long = "A".repeat(300);
    for text in [
        format!("Bearer {token}"),
        format!("Authorization: Bearer {token}"),
        format!("{token}.{token}"),
        format!("'{token}{long}"),
    ] {
        let output = run(&["inspect", &text], b"");
        let printed = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8(printed).unwrap().contains("c2lnbmF0dXJl"), "{text}");
    }
    assert!(run(&["inspect", &format!("Bearer {token}")], b"").stdout.starts_with(b"algorithm"));
}

#[test]
fn the_name_of_a_file_cannot_act_on_the_terminal() {
    let output = run(&["check", "a\x1b[2Jb"], b"");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "entra-exchange: a [2Jb does not exist: check its name\n");
    for form in ["text", "json", "sarif"] {
        let (_, stdout, _) = check("a\x1b[2Jb.yaml", b"{}", &["--output", form]);
        assert!(!stdout.contains('\x1b'), "{form}: {stdout}");
    }
}

#[test]
fn colours_are_written_on_request_only() {
    let wrong = b"{}";
    let escapes = |more: &[&str]| check("f.json", wrong, more).1.contains('\x1b');
    assert!(!escapes(&[]) && escapes(&["--color", "always"]) && !escapes(&["--color", "never"]));
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell], b"");
        assert!(output.status.success() && String::from_utf8(output.stdout).unwrap().contains("check"), "{shell}");
    }
    assert!(Path::new(env!("CARGO_BIN_EXE_entra-exchange")).exists());
}

#[test]
fn render_never_overwrites_a_file_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("c.yaml");
    let text = "entra: { clusters: [entra, entra_new_connection] }\ndestinations:\n- { hosts: [api.example.com], scope: api://a/.default, tls_clusters: [\"outbound|80||{host}\"] }\n";
    std::fs::write(&configuration, text).unwrap();
    let target = folder.path().join("manifests");
    let run = |more: &[&str]| {
        let arguments =
            ["render", configuration.to_str().unwrap(), "--for", "wasmplugin", "--directory", target.to_str().unwrap()];
        run(&[&arguments[..], more].concat(), b"")
    };
    assert_eq!(run(&[]).status.code(), Some(0));
    let plugin = target.join("wasmplugin-entra-exchange.yaml");
    std::fs::write(&plugin, "mine").unwrap();
    let again = run(&[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8(again.stderr).unwrap().contains("--force overwrites it"));
    assert_eq!(std::fs::read_to_string(&plugin).unwrap(), "mine");
    assert_eq!(run(&["--force"]).status.code(), Some(0));
    assert!(std::fs::read_to_string(&plugin).unwrap().contains("kind: WasmPlugin"));
    assert!(
        std::fs::read_to_string(target.join("kustomization.yaml"))
            .unwrap()
            .contains("- wasmplugin-entra-exchange.yaml\n")
    );
}
