//! WASI as Envoy implements it: standard output, environment variables, clocks and random numbers only.
//! Source: `exports.cc` of Envoy's proxy-wasm host.

use wasmtime::{Linker, Result};

use crate::abi::{Guest, bytes, nanoseconds, write};
use crate::log::LogLevel;
use crate::state::{State, size};

const SUCCESS: u32 = 0;
const BADF: u32 = 8;
const FAULT: u32 = 21;
const INVAL: u32 = 28;
const NOENT: u32 = 44;
const NOSYS: u32 = 52;
const NOTSUP: u32 = 58;
const NOTCAPABLE: u32 = 76;

/// The maximum number of random bytes of one call.
const MAX_RANDOM: u32 = 64 * 1024;

type CallResult = std::result::Result<(), u32>;

fn guarded(guest: &mut Guest<'_>, name: &str, call: impl FnOnce(&mut Guest<'_>) -> CallResult) -> u32 {
    if !guest.data().is_allowed(name) {
        guest.data().log(LogLevel::Error, format!("Attempted call to restricted WASI capability: {name}"));
        return NOTCAPABLE;
    }
    match call(guest) {
        Ok(()) => SUCCESS,
        Err(error) => error,
    }
}

fn put(guest: &mut Guest<'_>, pointer: u32, value: &[u8]) -> CallResult {
    write(guest, pointer, value).map_err(|_| FAULT)
}

/// Logs standard output at `info` and standard error at `error`.
fn fd_write(guest: &mut Guest<'_>, fd: u32, vectors: u32, count: u32, written_to: u32) -> CallResult {
    let level = match fd {
        1 => LogLevel::Info,
        2 => LogLevel::Error,
        _ => return Err(BADF),
    };
    let mut text = Vec::new();
    for number in 0..count {
        let pointer = vectors.wrapping_add(number.wrapping_mul(8));
        let vector = bytes(guest, (pointer, 8)).map_err(|_| FAULT)?;
        let number = |at: usize| -> std::result::Result<u32, u32> {
            let four = vector.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(FAULT)?;
            Ok(u32::from_le_bytes(four))
        };
        text.extend(bytes(guest, (number(0)?, number(4)?)).map_err(|_| FAULT)?);
    }
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    if !text.is_empty() {
        guest.data().log(level, String::from_utf8_lossy(line));
    }
    put(guest, written_to, &size(text.len()).to_le_bytes())
}

/// Encodes each variable as `name=value` followed by a NUL.
fn environment(guest: &Guest<'_>) -> Vec<Vec<u8>> {
    let process = guest.data().process.borrow();
    process.settings.variables.iter().map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

fn environ_sizes_get(guest: &mut Guest<'_>, count_to: u32, size_to: u32) -> CallResult {
    let variables = environment(guest);
    put(guest, count_to, &size(variables.len()).to_le_bytes())?;
    put(guest, size_to, &size(variables.iter().map(Vec::len).sum()).to_le_bytes())
}

fn environ_get(guest: &mut Guest<'_>, mut pointers: u32, mut texts: u32) -> CallResult {
    for variable in environment(guest) {
        put(guest, pointers, &texts.to_le_bytes())?;
        put(guest, texts, &variable)?;
        pointers = pointers.wrapping_add(4);
        texts = texts.wrapping_add(size(variable.len()));
    }
    Ok(())
}

fn clock_time_get(guest: &mut Guest<'_>, clock: u32, to: u32) -> CallResult {
    let now = match clock {
        0 => nanoseconds(guest),
        1 => u64::try_from(guest.data().process.borrow().now.as_nanos()).unwrap_or(u64::MAX),
        _ => return Err(NOTSUP),
    };
    put(guest, to, &now.to_le_bytes())
}

/// Returns random bytes that depend only on the seed and the VM, so that tests are reproducible.
fn random_get(guest: &mut Guest<'_>, to: u32, length: u32) -> CallResult {
    if length > MAX_RANDOM {
        return Err(INVAL);
    }
    let mut random = Vec::new();
    while random.len() < length as usize {
        random.extend(next_random(&mut guest.data_mut().random).to_le_bytes());
    }
    random.truncate(length as usize);
    put(guest, to, &random)
}

/// SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn fd_fdstat_get(guest: &mut Guest<'_>, fd: u32, to: u32) -> CallResult {
    if fd != 1 && fd != 2 {
        return Err(BADF);
    }
    let mut stat = [0_u8; 24];
    // The right to write.
    stat[8] = 64;
    put(guest, to, &stat)
}

/// Does nothing but log the call.
fn no_op(guest: &Guest<'_>, name: &str) -> CallResult {
    guest.data().log(LogLevel::Error, format!("wasi_unstable {name}"));
    Ok(())
}

macro_rules! define {
    ($linker:expr, $($name:literal: |$guest:ident, $($argument:ident: $type:ty),*| $call:expr;)*) => {
        $($linker.func_wrap("wasi_snapshot_preview1", $name, |mut guest: Guest<'_>, $($argument: $type),*| -> u32 {
            guarded(&mut guest, $name, |$guest| $call)
        })?;)*
    };
}

/// Registers all WASI calls with the linker.
pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    define! { linker,
        "fd_write": |guest, fd: u32, vectors: u32, count: u32, to: u32| fd_write(guest, fd, vectors, count, to);
        "fd_read": |_guest, _fd: u32, _vectors: u32, _count: u32, _to: u32| Err(NOSYS);
        "fd_seek": |guest, _fd: u32, _offset: i64, _whence: u32, _to: u32| no_op(guest, "fd_seek");
        "fd_close": |guest, _fd: u32| no_op(guest, "fd_close");
        "fd_fdstat_get": |guest, fd: u32, to: u32| fd_fdstat_get(guest, fd, to);
        "fd_fdstat_set_flags": |_guest, _fd: u32, _flags: u32| Err(NOTSUP);
        "fd_filestat_get": |_guest, _fd: u32, _to: u32| Err(NOTSUP);
        "fd_prestat_get": |_guest, _fd: u32, _to: u32| Err(BADF);
        "fd_prestat_dir_name": |_guest, _fd: u32, _p: u32, _n: u32| Err(NOTSUP);
        "path_open":
            |_guest, _fd: u32, _flags: u32, _p: u32, _n: u32, _open: u32, _rights: u64, _inherited: u64, _fdflags: u32, _to: u32|
            Err(NOENT);
        "environ_sizes_get": |guest, count: u32, bytes: u32| environ_sizes_get(guest, count, bytes);
        "environ_get": |guest, pointers: u32, texts: u32| environ_get(guest, pointers, texts);
        "args_sizes_get": |guest, count: u32, bytes: u32|
            put(guest, count, &[0; 4]).and_then(|()| put(guest, bytes, &[0; 4]));
        "args_get": |_guest, _pointers: u32, _texts: u32| Ok(());
        "clock_time_get": |guest, clock: u32, _precision: u64, to: u32| clock_time_get(guest, clock, to);
        "random_get": |guest, to: u32, length: u32| random_get(guest, to, length);
        "sched_yield": |_guest,| Ok(());
        "poll_oneoff": |guest, _in: u32, _out: u32, _count: u32, to: u32| put(guest, to, &[0; 4]);
    }
    // Unlike WASI's `proc_exit` it returns, as in Envoy: a guest that expects its process to end continues and then traps.
    linker.func_wrap("wasi_snapshot_preview1", "proc_exit", |mut guest: Guest<'_>, _: u32| {
        guarded(&mut guest, "proc_exit", |guest| no_op(guest, "proc_exit"));
    })?;
    Ok(())
}
