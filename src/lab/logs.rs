//! What services print, kept within bounds. Bytes go in; a file of whole lines and, once that is full, one older
//! file come out. It never loses the newest [`CAP`] bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes in a log before it becomes the older one; so a service takes twice as much at most.
pub const CAP: u64 = 1 << 20;
/// What is appended to the name of the older file; no service's name has it.
const OLDER: &str = "~";

/// The log of one service, to write to.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    /// The last byte written ended a line.
    fresh: bool,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, fresh: true })
    }

    /// What the service printed.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > CAP {
            fs::rename(&self.path, older(&self.path))?;
            self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = 0;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        self.fresh = bytes.last().map_or(self.fresh, |b| *b == b'\n');
        Ok(())
    }

    /// A line about the service.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        let before = if self.fresh { "" } else { "\n" };
        self.write(format!("{before}[vilab] {text}\n").as_bytes())
    }
}

/// Where the older half of a log lies.
#[must_use]
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OLDER);
    PathBuf::from(name)
}

/// How far a log has been read: up to this byte of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    inode: u64,
    at: u64,
}

/// The last `lines` lines of a log, or all of it, and how far that goes. A log that is not there is empty.
///
/// # Errors
/// If it cannot be read.
pub fn tail(path: &Path, lines: Option<usize>) -> io::Result<(Vec<u8>, Mark)> {
    let mut bytes = Vec::new();
    if let Some(mut file) = open(&older(path))? {
        file.read_to_end(&mut bytes)?;
    }
    let mark = append(path, 0, &mut bytes)?.unwrap_or_default();
    let Some(lines) = lines else { return Ok((bytes, mark)) };
    Ok((last_lines(&bytes, lines).to_owned(), mark))
}

/// What has been written to a log since `mark`, and how far that goes. Where the file has been changed for a new one
/// meanwhile, the rest of the old one comes first.
///
/// # Errors
/// If it cannot be read.
pub fn since(path: &Path, mark: Mark) -> io::Result<(Vec<u8>, Mark)> {
    let mut bytes = Vec::new();
    let inode = |path: &Path| fs::metadata(path).map(|m| m.ino()).ok();
    if inode(path) == Some(mark.inode) {
        let mark = append(path, mark.at, &mut bytes)?.unwrap_or(mark);
        return Ok((bytes, mark));
    }
    if inode(&older(path)) == Some(mark.inode) {
        append(&older(path), mark.at, &mut bytes)?;
    }
    let mark = append(path, 0, &mut bytes)?.unwrap_or(mark);
    Ok((bytes, mark))
}

/// Appends what stands in a file from `at` on; how far that goes.
fn append(path: &Path, at: u64, to: &mut Vec<u8>) -> io::Result<Option<Mark>> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    file.seek(SeekFrom::Start(at))?;
    let read = file.read_to_end(to)?;
    Ok(Some(Mark { inode: file.metadata()?.ino(), at: at + read as u64 }))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut breaks = body.iter().enumerate().rev().filter(|(_, b)| **b == b'\n');
    match lines {
        0 => &[],
        n => breaks.nth(n - 1).map_or(bytes, |(at, _)| &bytes[at + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, PathBuf, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web");
        let log = Log::open(&path).unwrap();
        (dir, path, log)
    }

    #[test]
    fn the_last_lines() {
        let bytes = b"a\nb\nc\n";
        assert_eq!(last_lines(bytes, 2), b"b\nc\n");
        assert_eq!(last_lines(bytes, 9), bytes);
        assert_eq!(last_lines(bytes, 0), b"");
        assert_eq!(last_lines(b"a\nb", 1), b"b");
        assert_eq!(last_lines(b"", 3), b"");
    }

    #[test]
    fn it_stays_within_its_bounds_and_keeps_the_newest() {
        let (_dir, path, mut log) = log();
        let line = [b'x'; 1023].iter().chain(b"\n").copied().collect::<Vec<u8>>();
        for _ in 0..5000 {
            log.write(&line).unwrap();
        }
        log.write(b"last\n").unwrap();
        let size = |p: &Path| fs::metadata(p).unwrap().len();
        assert!(size(&path) <= CAP && size(&older(&path)) <= CAP);
        let (all, _) = tail(&path, None).unwrap();
        assert!(all.len() as u64 >= CAP && all.ends_with(b"x\nlast\n"));
        assert_eq!(tail(&path, Some(1)).unwrap().0, b"last\n");
    }

    #[test]
    fn what_comes_later_is_read_once_also_across_a_change_of_files() {
        let (_dir, path, mut log) = log();
        log.write(b"one\n").unwrap();
        let (_, at) = tail(&path, None).unwrap();
        log.write(b"two\n").unwrap();
        let (seen, at) = since(&path, at).unwrap();
        assert_eq!(seen, b"two\n");
        log.write(b"three\n").unwrap();
        fs::rename(&path, older(&path)).unwrap();
        fs::write(&path, "four\n").unwrap();
        let (seen, at) = since(&path, at).unwrap();
        assert_eq!(seen, b"three\nfour\n");
        assert_eq!(since(&path, at).unwrap(), (Vec::new(), at));
    }

    #[test]
    fn a_note_stands_on_a_line_of_its_own() {
        let (_dir, path, mut log) = log();
        log.write(b"half a line").unwrap();
        log.note("it ended").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "half a line\n[vilab] it ended\n");
    }
}
