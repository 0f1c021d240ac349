//! Child processes that end with their parent, even when the parent is killed.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a child may take to exit after SIGTERM.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(5);

type Spawn = (Command, Sender<io::Result<Child>>);

/// Starts `command`. On Linux the kernel kills the child as soon as this process ends for any reason.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    die_with_parent(&mut command);
    let (reply, child) = channel();
    let ended = || io::Error::other("the thread that starts processes has ended");
    let spawner = match spawner().lock() {
        Ok(spawner) => spawner.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    spawner.send((command, reply)).map_err(|_| ended())?;
    child.recv().map_err(|_| ended())?
}

/// Terminates `child` with SIGTERM, and with SIGKILL after a timeout.
pub(crate) fn stop(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        let _ = kill_process(pid(child), Signal::TERM);
        let deadline = Instant::now() + TERMINATION_TIMEOUT;
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

/// Returns the channel to the thread that starts all child processes. For the kernel the parent is the spawning *thread*: a child of
/// a test's thread would be killed when that test ends, so a thread that never ends spawns all of them.
fn spawner() -> &'static Mutex<Sender<Spawn>> {
    static SPAWNER: OnceLock<Mutex<Sender<Spawn>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (spawner, commands): (Sender<Spawn>, Receiver<Spawn>) = channel();
        // If the thread does not start, `send` fails.
        let _ = thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (mut command, reply) in commands {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(spawner)
    })
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;

    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec the closure makes only two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before the call above.
            if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        });
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
