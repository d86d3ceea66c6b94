//! `vilab view` as a test starts it, and HTTP as plain as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A page that is served until this is dropped.
#[derive(Debug)]
pub struct Page {
    child: Child,
    /// Whatever it prints later has a reader.
    _stdout: BufReader<ChildStdout>,
    pub url: String,
    pub port: u16,
    pub token: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Page {
    #[must_use]
    pub fn of(lab: &str) -> Self {
        Self::start(super::vilab().args(["view", lab, "--json"]))
    }

    /// As [`Self::of`], by a command of the test's own.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("vilab view starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut text = String::new();
        let printed: Value = loop {
            assert!(stdout.read_line(&mut text).is_ok_and(|n| n > 0), "no address: {text}");
            if let Ok(value) = serde_json::from_str(&text) {
                break value;
            }
        };
        let url = printed["url"].as_str().expect("an address").to_owned();
        let (start, token) = url.split_once("/?token=").expect("a token");
        let port = start.strip_prefix("http://127.0.0.1:").and_then(|p| p.parse().ok()).expect("a port");
        Self { child, _stdout: stdout, token: token.to_owned(), url, port }
    }

    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A request with these headers, and no others but its length.
    #[must_use]
    pub fn plain(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = self.send(method, path, headers, body);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let text = String::from_utf8(answer).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned()));
        Answer {
            status: status.unwrap_or_else(|| panic!("no status: {text}")),
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("it reads");
        stream
    }

    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As the page asks.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        self.plain("GET", path, &[("host", &self.host()), ("x-vilab-token", &self.token)], "")
    }

    /// As the page does.
    #[must_use]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let origin = format!("http://{}", self.host());
        let host = self.host();
        let headers = [
            ("host", host.as_str()),
            ("x-vilab-token", &self.token),
            ("origin", &origin),
            ("content-type", "application/json"),
        ];
        self.plain("POST", path, &headers, &body.to_string())
    }

    /// The stream of news, after the head.
    #[must_use]
    pub fn live(&self) -> News {
        let stream =
            self.send("GET", "/api/live", &[("host", &self.host()), ("x-vilab-token", &self.token)], "");
        News { lines: BufReader::new(stream), kind: String::new() }
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Server-sent events.
#[derive(Debug)]
pub struct News {
    lines: BufReader<TcpStream>,
    kind: String,
}

impl Iterator for News {
    /// Event and data.
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).ok()? > 0 {
            if let Some(kind) = line.trim_end().strip_prefix("event: ") {
                self.kind = kind.to_owned();
            } else if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some((std::mem::take(&mut self.kind), data.to_owned()));
            }
            line.clear();
        }
        None
    }
}
