//! The page of `vilab view` in a browser: headless Chromium, driven by WebDriver, in a network namespace with a loopback
//! device and nothing else, so that no request can leave the machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::page::Page;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,900",
    "--force-prefers-reduced-motion",
];

/// The driver and all that it starts, in a PID namespace of their own: all of it ends with the first.
struct Driver {
    child: Child,
    port: u16,
}

impl Driver {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "chromedriver", "--port=0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        // Its output is read to the end, or it would wait.
        std::thread::spawn(move || lines.count());
        Self { child, port: port.expect("chromedriver says its port") }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A window with the page.
struct Window {
    client: Client,
}

impl Window {
    async fn open(driver: &Driver, profile: &str) -> Self {
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={profile}"));
        let mut wanted = serde_json::Map::new();
        wanted.insert("goog:chromeOptions".to_owned(), json!({ "args": arguments }));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(wanted).connect(&format!("http://127.0.0.1:{}", driver.port)).await;
        Self { client: client.expect("a browser") }
    }

    async fn ask(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until an expression is true.
    async fn until(&self, what: &str, is: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask(&format!("return Boolean({is});")).await != Value::Bool(true) {
            if Instant::now() > deadline {
                let text = self.ask("return document.body.innerText;").await;
                panic!("never {what}: {is}\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn click(&self, selector: &str) {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(selector)).await;
        found.unwrap_or_else(|e| panic!("{selector}: {e}")).click().await.unwrap();
    }
}

/// All that a browser can reach from this thread on is this machine's loopback device, and not even that of the rest of it.
fn cut_off() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    common::run(Command::new("ip").args(["link", "set", "lo", "up"]));
    let devices = common::run(Command::new("ip").args(["-o", "link"]));
    assert!(
        devices.lines().all(|line| line.contains("LOOPBACK") || line.contains("state DOWN")),
        "{devices}"
    );
}

#[test]
fn a_browser_shows_the_lab_traces_cuts_and_restores() {
    if !common::can("netns") || !common::can("browser") {
        return;
    }
    let up = common::Up::lab("view-browser", "figure-11-revisitation.yaml", "fastpath");
    cut_off();
    let mut page = Page::of(up.name());
    let driver = Driver::start();
    let profile = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let window = Window::open(&driver, profile.path().to_str().unwrap()).await;
        window.client.goto(&page.url).await.unwrap();
        window.until("live", "document.querySelector('#connection')?.dataset.state === 'live'").await;
        look_around(&window, up.name()).await;
        trace(&window).await;
        cut_and_restore(&window, &up).await;
        stays_here(&window, &page).await;

        common::run(common::vilab().args(["down", up.name()]));
        window
            .until(
                "told of the end",
                "document.querySelector('#message').innerText.includes('has gone down')",
            )
            .await;
        window.client.close().await.unwrap();
    });
    assert!(page.ended().success());
    up.has_ended();
}

/// The token has left the address; the picture has all nodes and links; a node that is chosen is shown with its routes.
async fn look_around(window: &Window, lab: &str) {
    window.ask("window.faults = []; for (const kind of ['securitypolicyviolation', 'error', 'unhandledrejection']) addEventListener(kind, (e) => window.faults.push(`${kind} ${e.violatedDirective ?? e.message ?? e.reason}`), true);").await;
    assert_eq!(window.ask("return location.search;").await, "");
    assert_eq!(window.ask("return document.querySelector('#lab-name').textContent;").await, lab);
    let count = |what: &str| format!("return document.querySelectorAll('#picture {what}').length;");
    assert_eq!(window.ask(&count("g.node[role=button]")).await, 9);
    assert_eq!(window.ask(&count("path.link")).await, 7);
    window.until("looked at", "document.querySelector('#link-counts').textContent.includes('7 up')").await;
    window.click("#picture g.node[data-node='line/B']").await;
    window.until("shown", "document.querySelector('#details h2')?.textContent.startsWith('line/B')").await;
    window.until("with routes", "document.querySelector('#details').innerText.includes('as computed')").await;
    // The same with the keyboard.
    window.ask("document.querySelector(`#picture g.node[data-node='line/C']`).focus();").await;
    let focused = window.client.active_element().await.unwrap();
    focused.send_keys("\u{e007}").await.unwrap();
    window.until("shown", "document.querySelector('#details h2').textContent.startsWith('line/C')").await;
}

/// Two clicks, and the headers of five wires.
async fn trace(window: &Window) {
    window.click("#trace-mode").await;
    window.click("#picture g.node[data-node='line/A']").await;
    window.click("#picture g.node[data-node='line/F']").await;
    window.until("traced", "document.querySelector('.verdict.good')").await;
    let words = window.ask("return [...document.querySelectorAll('.wire')].map(w => [...w.querySelectorAll('.header b')].map(b => b.textContent).join(' | '));");
    assert_eq!(
        words.await,
        json!([
            "base X -> Y | link A -> B | net A -> F | data",
            "base Y -> Z | link B -> C | net A -> F | data",
            "base Z -> Y | link C -> D | net A -> F | data",
            "base Y -> Z | link D -> E | net A -> F | data",
            "base Z -> Y | link E -> F | net A -> F | data",
        ])
    );
    assert_eq!(window.ask("return document.querySelectorAll('#picture .glow.traced').length;").await, 2);
    // Bytes on demand: the first of an IPv4 header.
    let shown = "[...document.querySelectorAll('.header code')].filter(c => c.checkVisibility())";
    assert_eq!(window.ask(&format!("return {shown}.length;")).await, 0);
    window.click("#trace input[type=checkbox]").await;
    assert_eq!(window.ask(&format!("return {shown}.length;")).await, 15);
    assert_eq!(
        window.ask(&format!("return {shown}.every(c => c.textContent.startsWith('45'));")).await,
        true
    );
}

async fn cut_and_restore(window: &Window, up: &common::Up) {
    let find = window.client.find(Locator::Id("find")).await.unwrap();
    find.send_keys("base/X--Y\u{e007}").await.unwrap();
    window.until("shown", "document.querySelector('#details h2').textContent.startsWith('base/X--Y')").await;
    window.click("#details button.deed[data-key=set]").await;
    let is =
        |class: &str| format!("document.querySelector(`#picture path.link.{class}[data-link='base/X--Y']`)");
    window.until("down in the picture", &is("is-down")).await;
    window
        .until("cut off above", "document.querySelector(`#picture path.link.is-dead[data-link='line/A--B']`)")
        .await;
    window
        .until(
            "told",
            "document.querySelector('#event-list').textContent.includes('link base/X--Y was set down')",
        )
        .await;
    assert_eq!(up.running().faults().unwrap().links.len(), 1);

    window.click("#tab-trace").await;
    window.click("#trace form.ask button[type=submit]").await;
    window.until("a failed trace", "document.querySelector('.verdict.bad')").await;

    window.click("#details button.deed[data-key=set]").await;
    window.until("up again", &format!("!{}", is("is-down"))).await;
    assert!(up.running().faults().unwrap().is_empty());
}

/// Whatever the page asked for it asked its own server, and its policy had nothing to refuse.
async fn stays_here(window: &Window, page: &Page) {
    let asked = window.ask("return performance.getEntriesByType('resource').map(e => e.name);").await;
    let asked: Vec<String> = serde_json::from_value(asked).unwrap();
    let own = format!("http://127.0.0.1:{}/", page.port);
    assert!(asked.len() > 8 && asked.iter().all(|url| url.starts_with(&own)), "{asked:?}");
    assert!(!asked.iter().any(|url| url.contains(&page.token)), "{asked:?}");
    assert_eq!(window.ask("return window.faults;").await, json!([]));
    let refused = window.client.execute_async(
        "const done = arguments[0]; document.addEventListener('securitypolicyviolation', (e) => done(e.blockedURI)); \
         const image = new Image(); image.onload = () => done('loaded'); image.src = 'http://127.0.0.2:9/x.png';",
        Vec::new(),
    );
    let refused = refused.await.unwrap();
    assert!(
        refused.as_str().is_some_and(|uri| uri.starts_with("http://127.0.0.2:9")),
        "the policy is in force: {refused}"
    );
}
