//! What a link does to packets on purpose. The keys of a map go in; an [`Impairment`] for each direction comes out. It
//! never decides who carries it out.

use super::diag::{Diagnostic, Span};
use super::fields::{Errors, Fields};
use super::units::{delay_us, rate_bps, share_ppm};
use super::yaml::Tree;
use crate::model::Impairment;

/// What one direction says; what it leaves open is said by both together.
#[derive(Debug, Clone, Copy, Default)]
struct Part {
    delay_us: Option<u64>,
    /// There is one that cannot be read; an error was noted.
    delay_unread: bool,
    jitter_us: Option<u64>,
    loss_ppm: Option<u32>,
    rate_bps: Option<u64>,
}

/// Takes `delay`, `rtt`, `jitter`, `loss`, `rate`, `forward` and `backward`; forward is from the first end to the second.
pub(super) fn take(fields: &mut Fields<'_>, span: Span, errors: &mut Errors) -> [Impairment; 2] {
    let mut both = part(fields, errors);
    let rtt = fields.take_key("rtt").map(|(at, t)| (at, delay_us(t, "`rtt`", errors)));
    match (rtt, both.delay_us) {
        (Some((at, Some(_))), Some(_)) => {
            errors.push(Diagnostic::new("impairment", at, "`rtt` and `delay` say the same; give one"));
        }
        (Some((_, Some(rtt))), None) => both.delay_us = Some(rtt / 2),
        (Some((_, None)), None) => both.delay_unread = true,
        (Some((_, None)), Some(_)) | (None, _) => {}
    }
    let directions = ["forward", "backward"].map(|key| match fields.take(key) {
        Some(tree) => direction(tree, errors).unwrap_or(Part { delay_unread: true, ..Part::default() }),
        None => Part::default(),
    });
    directions.map(|own| own.over(both).check(span, errors))
}

fn direction(tree: &Tree, errors: &mut Errors) -> Option<Part> {
    let mut fields = Fields::new(tree, "a direction of a link", errors)?;
    let part = part(&mut fields, errors);
    fields.finish(errors);
    Some(part)
}

fn part(fields: &mut Fields<'_>, errors: &mut Errors) -> Part {
    let delay = fields.take("delay").map(|t| delay_us(t, "`delay`", errors));
    Part {
        delay_us: delay.flatten(),
        delay_unread: delay == Some(None),
        jitter_us: fields.take("jitter").and_then(|t| delay_us(t, "`jitter`", errors)),
        loss_ppm: fields.take("loss").and_then(|t| share_ppm(t, "`loss`", errors)),
        rate_bps: fields.take("rate").and_then(|t| rate_bps(t, "`rate`", errors)),
    }
}

impl Part {
    fn over(self, both: Self) -> Self {
        Self {
            delay_us: self.delay_us.or(both.delay_us),
            delay_unread: self.delay_unread || (self.delay_us.is_none() && both.delay_unread),
            jitter_us: self.jitter_us.or(both.jitter_us),
            loss_ppm: self.loss_ppm.or(both.loss_ppm),
            rate_bps: self.rate_bps.or(both.rate_bps),
        }
    }

    fn check(self, span: Span, errors: &mut Errors) -> Impairment {
        let found = Impairment {
            delay_us: self.delay_us.unwrap_or(0),
            jitter_us: self.jitter_us.unwrap_or(0),
            loss_ppm: self.loss_ppm.unwrap_or(0),
            rate_bps: self.rate_bps,
        };
        if found.jitter_us > found.delay_us && !self.delay_unread {
            let title = "`jitter` cannot be greater than `delay`: no packet arrives before it is sent";
            errors.push(Diagnostic::new("impairment", span, title));
        }
        found
    }
}
