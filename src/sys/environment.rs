//! The environment of this process. A name and a value go in; what is started from here on has them. It never changes anything
//! beside other threads, which may be reading it.
#![expect(unsafe_code, reason = "setenv(3) is not for processes with threads")]

use std::ffi::OsStr;
use std::io;

/// Sets a variable.
///
/// # Errors
/// If there is another thread, or it cannot be known.
pub fn set(name: &str, value: &OsStr) -> io::Result<()> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has several threads"));
    }
    // SAFETY: this thread is the only one, so nobody reads or writes the environment meanwhile.
    unsafe { std::env::set_var(name, value) };
    Ok(())
}
