//! `vilab watch`. A lab goes in; what passes its links, what is dropped and what is not as computed is shown on a terminal, or
//! printed as a table or as JSON at every interval. It never changes the lab, and leaves the terminal as it was.

mod pane;
mod plain;
mod screen;
mod ui;

use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signalfd::SignalFd;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::{DONE, output, up};
use crate::error::{Context, Kind, Result};
use crate::lab::Running;
use crate::observe::watch::Watch;
use ui::Ui;

/// Below this a look would be about itself.
const SHORTEST: Duration = Duration::from_millis(50);
/// Until the first rates on a terminal.
const FIRST: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  vilab watch\n  vilab watch --interval 5s | tee rates.txt\n  vilab watch --json --count 10 | jq \
                        '.links[].directions[].sent'"
)]
pub(super) struct Args {
    /// The lab; may be left out when only one is up
    #[arg(env = "VILAB_LAB")]
    lab: Option<String>,
    /// What rates are over
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// End after this many intervals
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

fn interval(text: &str) -> std::result::Result<Duration, String> {
    let time = super::wait::time(text)?;
    if time < SHORTEST { Err(format!("it must be at least {SHORTEST:?}")) } else { Ok(time) }
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let lab = Running::open_or_only(args.lab.as_deref())?;
    let signals = up::interruptions()?;
    lab.join()?;
    let watch = Watch::open(lab)?;
    watch.attend(signals.as_fd(), true)?;
    if !args.json && io::stdout().is_terminal() && io::stdin().is_terminal() {
        on_terminal(watch, args, &signals)
    } else {
        in_lines(watch, args, &signals)
    }
}

/// How waiting for the next look ended, where it did not with its time.
fn ended(name: &str, lab_ended: bool, signals: &SignalFd) -> Result<u8> {
    if up::signalled(signals).doing(Kind::Bug, || "cannot look for signals".into())? {
        return up::ended_by(signals);
    }
    if lab_ended {
        output::note(&format!("lab {name} has gone down"));
    }
    Ok(DONE)
}

// ---- lines ------------------------------------------------------------------------------------------------------

fn in_lines(mut watch: Watch, args: &Args, signals: &SignalFd) -> Result<u8> {
    let stdout = io::stdout();
    watch.attend(stdout.as_fd(), false)?;
    let name = watch.running().name().to_owned();
    watch.look()?;
    let mut left = args.count;
    let mut due = Instant::now() + args.interval;
    while left != Some(0) {
        while Instant::now() < due {
            let woken = watch.wait(Some(due))?;
            if woken.ended || woken.other {
                return ended(&name, woken.ended, signals);
            }
        }
        due += args.interval;
        let Some(view) = watch.look()? else { return ended(&name, true, signals) };
        match plain::write(&mut stdout.lock(), &view, args.json) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(DONE),
            other => other.doing(Kind::Environment, || "cannot write what is watched".into())?,
        }
        left = left.map(|n| n - 1);
    }
    Ok(DONE)
}

// ---- a terminal -------------------------------------------------------------------------------------------------

/// The terminal while it is ours. A panic gives it back too: [`ratatui::try_init`] sees to that.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing back.
        let _gone = ratatui::try_restore();
    }
}

fn on_terminal(mut watch: Watch, args: &Args, signals: &SignalFd) -> Result<u8> {
    let stdin = io::stdin();
    watch.attend(stdin.as_fd(), true)?;
    let name = watch.running().name().to_owned();
    let Some(view) = watch.look()? else { return ended(&name, true, signals) };
    let mut ui = Ui::new(view);
    let what = || "cannot use the terminal".to_owned();
    let mut screen = Screen::open().doing(Kind::Environment, what)?;
    let mut left = args.count;
    let mut due = Instant::now() + args.interval.min(FIRST);
    loop {
        screen.0.draw(|frame| screen::draw(frame, &mut ui)).doing(Kind::Environment, what)?;
        let woken = watch.wait((!ui.is_paused()).then_some(due))?;
        let signalled = up::signalled(signals).doing(Kind::Bug, what)?;
        if woken.ended || signalled {
            drop(screen);
            return ended(&name, woken.ended, signals);
        }
        if keys(&mut ui).doing(Kind::Environment, what)? {
            return Ok(DONE);
        }
        if Instant::now() < due || ui.is_paused() {
            continue;
        }
        let Some(view) = watch.look()? else {
            drop(screen);
            return ended(&name, true, signals);
        };
        ui.show(view);
        due = Instant::now() + args.interval;
        left = left.map(|n| n - 1);
        if left == Some(0) {
            return Ok(DONE);
        }
    }
}

/// Takes the keys that were pressed; whether one of them ends it. A change of size only needs another drawing.
fn keys(ui: &mut Ui) -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && ui.press(key)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_least() {
        assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(interval("50ms"), Ok(SHORTEST));
        for wrong in ["0s", "10ms", "1", "soon"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
