//! A child process that ends with its parent, even when the parent is killed.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);

type Spawn = (Command, Sender<io::Result<Child>>);

/// Starts `command`. On Linux the kernel kills the child as soon as this process ends, however it ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    die_with_parent(&mut command);
    let (answer, child) = channel();
    let gone = || io::Error::other("the thread that starts processes has ended");
    let spawner = match spawner().lock() {
        Ok(spawner) => spawner.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    spawner.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// Asks `child` to end, and makes it end.
pub(crate) fn stop(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = kill_process(pid(child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
    }
    let _ = child.wait();
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The kernel takes the *thread* that spawned for the parent: a child of a test's own thread would die with that test. So one thread
/// that never ends starts all of them.
fn spawner() -> &'static Mutex<Sender<Spawn>> {
    static SPAWNER: OnceLock<Mutex<Sender<Spawn>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (spawner, commands): (Sender<Spawn>, Receiver<Spawn>) = channel();
        // Should the thread not start, `send` fails and says so.
        let _ = thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (mut command, answer) in commands {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(spawner)
    })
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only two system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the line above.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
