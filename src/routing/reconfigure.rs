//! What turns one configuration of an FRR daemon into another while it runs. Two texts go in; commands for FRR's shell
//! come out, `no` in front of what goes, each in its context. It never repeats what is the same in both.

use std::fmt::Write as _;

/// Commands of which the last word is a value: the new one takes the place of the old.
const VALUES: [&str; 10] = [
    "ip ospf cost ",
    "isis metric ",
    "lsp-mtu ",
    "maximum-paths ",
    "ip ospf hello-interval ",
    "ip ospf dead-interval ",
    "isis hello-interval ",
    "isis hello-multiplier ",
    "coalesce-time ",
    "set src ",
];
/// What a daemon learns when it starts and never again without losing all it has.
const FOR_LIFE: [&str; 5] = ["router ", "ospf router-id ", "bgp router-id ", "net ", "is-type "];

/// A line and, where it opens a context, the lines of that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line<'a> {
    text: &'a str,
    inside: Vec<Line<'a>>,
}

/// The commands, or `None` where the daemon must start again.
#[must_use]
pub fn commands(old: &str, new: &str) -> Option<String> {
    let (old, new) = (parse(old), parse(new));
    let mut commands = String::new();
    change(&old, &new, 0, &mut commands)?;
    Some(commands)
}

/// Contexts are what stands further in; the lines that close them say no more.
fn parse(text: &str) -> Vec<Line<'_>> {
    let lines: Vec<(usize, &str)> = text
        .lines()
        .map(|line| (line.len() - line.trim_start().len(), line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("exit") && !line.starts_with('!'))
        .collect();
    level(&mut lines.as_slice(), 0)
}

fn level<'a>(lines: &mut &[(usize, &'a str)], depth: usize) -> Vec<Line<'a>> {
    let mut found = Vec::new();
    while let Some(((indent, text), rest)) = lines.split_first()
        && *indent >= depth
    {
        *lines = rest;
        let next = lines.first().map_or(0, |(indent, _)| *indent);
        let inside = if next > *indent { level(lines, indent + 1) } else { Vec::new() };
        found.push(Line { text, inside });
    }
    found
}

fn change(old: &[Line<'_>], new: &[Line<'_>], depth: usize, out: &mut String) -> Option<()> {
    let in_place = |line: &Line<'_>| {
        VALUES.iter().any(|v| line.text.starts_with(v) && new.iter().any(|n| n.text.starts_with(v)))
    };
    for line in old.iter().filter(|o| !new.iter().any(|n| n.text == o.text)) {
        for_life(line)?;
        if !in_place(line) {
            let _ = writeln!(out, "{}{}", " ".repeat(depth), opposite(line.text));
        }
    }
    for line in new {
        let before = old.iter().find(|o| o.text == line.text);
        if before == Some(line) {
            continue;
        }
        if before.is_none() {
            for_life(line)?;
        }
        let _ = writeln!(out, "{}{}", " ".repeat(depth), line.text);
        if opens(line) || before.is_some_and(opens) {
            let inside = before.map(|b| b.inside.as_slice()).unwrap_or_default();
            change(inside, &line.inside, depth + 1, out)?;
            let closing =
                if line.text.starts_with("address-family") { "exit-address-family" } else { "exit" };
            let _ = writeln!(out, "{}{closing}", " ".repeat(depth));
        }
    }
    Some(())
}

fn opens(line: &Line<'_>) -> bool {
    !line.inside.is_empty()
}

fn for_life(line: &Line<'_>) -> Option<()> {
    (!FOR_LIFE.iter().any(|word| line.text.starts_with(word))).then_some(())
}

fn opposite(command: &str) -> String {
    command.strip_prefix("no ").map_or_else(|| format!("no {command}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OSPF: &str = "interface lo\n ip ospf passive\n ip ospf area 0\nexit\ninterface v-b\n ip ospf cost 1\n ip \
                        ospf area 0\nexit\nrouter ospf\n ospf router-id 10.0.0.1\nexit\n";

    #[test]
    fn equal_texts_need_no_command() {
        assert_eq!(commands(OSPF, OSPF), Some(String::new()));
    }

    #[test]
    fn a_value_takes_the_place_of_the_old_one() {
        let new = OSPF.replace("cost 1", "cost 5");
        assert_eq!(commands(OSPF, &new).unwrap(), "interface v-b\n ip ospf cost 5\nexit\n");
    }

    #[test]
    fn contexts_come_and_go() {
        let new = OSPF.replace("interface v-b", "interface v-c");
        let expected = "no interface v-b\ninterface v-c\n ip ospf cost 1\n ip ospf area 0\nexit\n";
        assert_eq!(commands(OSPF, &new).unwrap(), expected);
    }

    #[test]
    fn what_goes_in_a_nested_context_goes_there() {
        let text = |inside: &str| {
            format!(
                "router bgp 1\n neighbor 10.0.0.1 remote-as 2\n address-family ipv4 unicast\n{inside} exit-address-family\nexit\n"
            )
        };
        let (old, new) =
            (text("  maximum-paths 2\n  neighbor 10.0.0.1 activate\n"), text("  maximum-paths 3\n"));
        let expected = "router bgp 1\n address-family ipv4 unicast\n  no neighbor 10.0.0.1 activate\n  maximum-paths \
                        3\n exit-address-family\nexit\n";
        assert_eq!(commands(&old, &new).unwrap(), expected);
    }

    #[test]
    fn what_was_refused_is_allowed_again() {
        assert_eq!(
            commands("no zebra nexthop kernel enable\n", "").unwrap(),
            "zebra nexthop kernel enable\n"
        );
    }

    #[test]
    fn who_a_daemon_is_it_learns_at_its_start() {
        assert_eq!(commands(OSPF, &OSPF.replace("10.0.0.1", "10.0.0.2")), None);
        assert_eq!(commands(OSPF, ""), None);
    }
}
