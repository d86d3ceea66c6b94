//! `vilab capture`. Nodes and devices go in; one pcapng file of what passes them comes out, or a stream of it on standard
//! output. It ends with the lab, with a signal, or when there is enough, and the file is whole.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::{DONE, node, output, up, wait};
use crate::capture::{self, End, Ended, Fault, Filter, Options, Point, Selection, Session, WHOLE};
use crate::error::{Context, Error, Kind, Result};
use crate::lab::Running;
use crate::lab::capture::Capture;
use crate::sys::pidfd;

/// Standard output, as other tools have it.
const STDOUT: &str = "-";
/// Between two changes of what a terminal shows.
const REFRESH: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab capture -o lab.pcapng\n  vilab capture X blue/a | tshark -nr -\n  \
                        vilab capture -o x.pcapng --count 10 --filter 'icmp or ip proto 4' X:e-Y @link"
)]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(short, long, env = "VILAB_LAB")]
    lab: Option<String>,
    /// What to capture: X, blue/a, a whole network blue, a layer @link, X@link; with :DEVICE one device; else everything
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// The file to write; `-`, or none where the output is no terminal, is standard output
    #[arg(short, long, visible_short_alias = 'w', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
    /// End when so many packets are in the file
    #[arg(short, long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time, such as 10s
    #[arg(short, long, value_parser = wait::time)]
    duration: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only what this matches, in tcpdump's words (pcap-filter(7)), such as 'icmp or port 179'
    #[arg(short, long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Bytes of each packet that are kept
    #[arg(short, long, default_value_t = WHOLE, value_parser = clap::value_parser!(u32).range(1..=i64::from(WHOLE)))]
    snaplen: u32,
}

/// A capture that begins with the lab.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct CaptureArgs {
    /// Capture everything to this pcapng file, from before anything is sent until the lab ends
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Of these, only what this matches, in tcpdump's words
    #[arg(long, value_name = "EXPRESSION", requires = "capture")]
    capture_filter: Option<String>,
}

impl CaptureArgs {
    /// The capture that is asked for; its file is there and empty.
    pub(super) fn capture(&self) -> Result<Option<Capture>> {
        let Some(file) = &self.capture else { return Ok(None) };
        if file.as_os_str() == STDOUT {
            return Err(Error::usage(
                "up returns when the lab is up, and the capture goes on: it needs a file",
            )
            .hint("--capture FILE; or, when the lab is up: vilab capture -o - | …"));
        }
        let filter = compile(self.capture_filter.as_deref(), WHOLE)?;
        create(file)?;
        let what = || format!("cannot write {}", file.display());
        Ok(Some(Capture { file: file.canonicalize().doing(Kind::Environment, what)?, filter }))
    }
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let to = destination(args.output.as_deref(), io::stdout().is_terminal())?;
    let lab = Running::open_or_only(args.lab.as_deref())?;
    let filter = compile(args.filter.filter.as_deref(), args.filter.snaplen)?;
    let signals = up::interruptions()?;
    let gone = pidfd::open(lab.state().init).doing(Kind::Environment, || "the lab has ended".into())?;
    lab.join()?;
    let namespaces = lab.namespaces();
    let selection = select(&lab, &capture::points(&namespaces)?, &args.nodes)?;
    let options = Options { selection, filter, count: args.count, duration: args.duration };
    let session = Session::open(options, namespaces)?;
    let mut display = Display::begin(session.devices());
    let stdout = io::stdout();
    // What is buffered and flushed by whole blocks needs no buffer by lines.
    let (mut out, reader) = match to {
        Some(path) => (create(path)?, None),
        None => (File::from(duplicate(&stdout)?), Some(stdout.as_fd())),
    };
    let ends = [signals.as_fd(), gone.as_fd()];
    let ended = session.run(&mut out, &ends, reader, &mut |packets| display.show(packets))?;
    display.end(lab.name(), &ended);
    Ok(DONE)
}

fn duplicate(stdout: &io::Stdout) -> Result<OwnedFd> {
    stdout.as_fd().try_clone_to_owned().doing(Kind::Environment, || "cannot use standard output".into())
}

/// The file; `None` for standard output.
fn destination(output: Option<&Path>, terminal: bool) -> Result<Option<&Path>> {
    let path = output.filter(|path| path.as_os_str() != STDOUT);
    if path.is_none() && terminal {
        return Err(Error::usage("a capture is nothing for a terminal")
            .hint("write it to a file: -o lab.pcapng; or have it read: vilab capture | tshark -nr -"));
    }
    Ok(path)
}

fn compile(text: Option<&str>, snaplen: u32) -> Result<Filter> {
    text.map_or_else(|| Ok(Filter::all(snaplen)), |text| Filter::compile(text, snaplen))
}

fn create(path: &Path) -> Result<File> {
    File::create(path).doing(Kind::Environment, || format!("cannot write {}", path.display()))
}

fn select(lab: &Running, points: &[Point], words: &[String]) -> Result<Selection> {
    Selection::parse(points, words).map_err(|fault| match fault {
        Fault::Unknown(words) => {
            let error = Error::usage(format!("lab {} has no node, network or layer {words}", lab.name()));
            let names = points.iter().map(|p| (p.full_name(), p.node.clone()));
            node::suggest(error, &words, names, &format!("its nodes: vilab status {}", lab.name()))
        }
        Fault::Several(words, names) => {
            Error::usage(format!("{words} is not one node of lab {}", lab.name()))
                .hint(format!("name one: {}", names.join(", ")))
        }
    })
}

/// What a terminal shows meanwhile; elsewhere nothing.
#[derive(Debug)]
struct Display {
    bar: Option<ProgressBar>,
    devices: usize,
    shown: Instant,
}

impl Display {
    fn begin(devices: usize) -> Self {
        let bar = io::stderr().is_terminal().then(ProgressBar::new_spinner);
        let display = Self { bar, devices, shown: Instant::now() };
        display.say(0);
        display
    }

    fn show(&mut self, packets: u64) {
        if self.shown.elapsed() >= REFRESH {
            self.shown = Instant::now();
            self.say(packets);
        }
    }

    fn say(&self, packets: u64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{packets} packets, {} devices; Ctrl-C ends it", self.devices));
            bar.tick();
        }
    }

    /// Quiet in a pipe, but for what is missing in the file.
    fn end(self, lab: &str, ended: &Ended) {
        let terminal = self.bar.is_some();
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        words(lab, ended, terminal).iter().for_each(|line| output::note(line));
    }
}

fn words(lab: &str, ended: &Ended, all: bool) -> Vec<String> {
    let Ended { why, packets, devices, dropped, late } = ended;
    let mut lines = Vec::new();
    if all && *why == End::Asked(1) {
        lines.push(format!("lab {lab} has gone down"));
    }
    if all || *dropped > 0 {
        lines.push(format!("{packets} packets of {devices} devices, {dropped} dropped"));
    }
    if *dropped > 0 {
        lines.push(
            "what was dropped came faster than it could be written: a filter or --snaplen helps".into(),
        );
    }
    if *late > 0 {
        lines.push(format!("{late} packets are behind younger ones: sort them with reordercap"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_packets() {
        let file = Path::new("f");
        assert_eq!(destination(Some(file), true).unwrap(), Some(file));
        assert_eq!(destination(Some(Path::new("-")), false).unwrap(), None);
        assert_eq!(destination(None, false).unwrap(), None);
        assert!(destination(None, true).unwrap_err().hint_text().unwrap().contains("tshark"));
        assert!(destination(Some(Path::new("-")), true).is_err());
    }

    #[test]
    fn drops_are_told_in_a_pipe_too() {
        let mut ended = Ended { why: End::Asked(1), packets: 7, devices: 2, dropped: 0, late: 0 };
        assert!(words("l", &ended, false).is_empty());
        assert_eq!(words("l", &ended, true), ["lab l has gone down", "7 packets of 2 devices, 0 dropped"]);
        ended.dropped = 3;
        assert_eq!(words("l", &ended, false)[0], "7 packets of 2 devices, 3 dropped");
    }
}
