//! `vilab view`: who is let in, what is told of a lab, and what may be done to it, over HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::bench::Bench;
use common::page::Page;
use serde_json::{Value, json};

const LAB: &str = "
name: l
base: {links: [X -- Y -- Z]}
vis:
  vi: {nodes: {a: X, b: {at: Y, role: router}, c: Z}, links: [a -- b -- c]}
apps:
  - {name: web, at: vi/a, run: [sh, -c, 'echo here I am; sleep infinity'], restart: always}
";

fn vilab(arguments: &[&str]) -> String {
    common::run(common::vilab().args(arguments))
}

#[test]
fn only_who_has_the_token_and_is_the_page_itself_is_let_in() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("view-access", LAB, "fastpath");
    let page = Page::of(up.name());
    let host = page.host();
    let here = [("host", host.as_str())];
    assert_eq!(page.plain("GET", "/", &here, "").status, 401);
    assert_eq!(page.plain("GET", &format!("/?token={}x", page.token), &here, "").status, 401);
    let index = page.plain("GET", &format!("/?token={}", page.token), &here, "");
    assert_eq!(index.status, 200);
    assert!(index.body.contains("<script type=\"module\" src=\"app.js\">"), "{}", index.body);
    let policy = index.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(index.header("referrer-policy"), Some("no-referrer"));

    // The cookie opens the files of the page, and no facts and deeds.
    let cookie = index.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    assert!(!cookie.contains(&page.token), "{cookie}");
    let pass = cookie.split(';').next().unwrap();
    let with_pass = [("host", host.as_str()), ("cookie", pass)];
    for file in ["/", "/app.js", "/style.css", "/icon.svg", "/picture.js", "/details.js", "/trace.js"] {
        assert_eq!(page.plain("GET", file, &here, "").status, 401, "{file}");
        assert_eq!(page.plain("GET", file, &with_pass, "").status, 200, "{file}");
    }
    assert_eq!(page.plain("GET", "/../Cargo.toml", &with_pass, "").status, 404);
    assert_eq!(page.plain("GET", "/api/lab", &with_pass, "").status, 401);
    assert_eq!(page.get("/api/lab").status, 200);
    assert_eq!(page.get("/api/none").status, 404);

    // Another name for this address, and pages from elsewhere.
    let token = ("x-vilab-token", page.token.as_str());
    let evil = format!("evil.example:{}", page.port);
    assert_eq!(page.plain("GET", "/api/lab", &[("host", &evil), token], "").status, 421);
    let other = [here[0], token, ("origin", "http://evil.example")];
    assert_eq!(page.plain("GET", "/api/lab", &other, "").status, 403);
    let body = json!({ "name": "base/X--Y", "down": true }).to_string();
    let kind = ("content-type", "application/json");
    let own = format!("http://{host}");
    for (headers, status) in [
        (vec![here[0], token, kind], 403),
        (vec![here[0], token, kind, ("origin", "http://127.0.0.1:1")], 403),
        (vec![here[0], kind, ("origin", own.as_str())], 401),
        (vec![here[0], token, ("origin", own.as_str())], 400),
    ] {
        assert_eq!(page.plain("POST", "/api/link", &headers, &body).status, status, "{headers:?}");
    }
    assert!(up.running().faults().unwrap().is_empty(), "nothing was done");
}

#[test]
fn it_listens_on_the_loopback_address_alone() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("view-loopback", LAB, "fastpath");
    let page = Page::of(up.name());
    let listening = |file: &str| -> Vec<String> {
        let table = std::fs::read_to_string(format!("/proc/{}/net/{file}", page.id())).unwrap();
        let port = format!(":{:04X}", page.port);
        let local = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        // State 0A is LISTEN.
        let is = |line: &&str| line.split_whitespace().nth(3) == Some("0A");
        table.lines().filter(is).filter_map(local).filter(|l| l.ends_with(&port)).collect()
    };
    assert_eq!(listening("tcp"), [format!("0100007F:{:04X}", page.port)]);
    assert_eq!(listening("tcp6"), [""; 0]);

    // A port that is taken is an error, not another port.
    let mut command = common::vilab();
    let taken = command.args(["view", up.name(), "--port", &page.port.to_string()]).output().unwrap();
    assert_eq!(taken.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&taken.stderr).contains("cannot listen at 127.0.0.1"), "{taken:?}");
}

#[test]
fn a_lab_its_nodes_logs_and_traces() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("view-facts", LAB, "fastpath");
    let page = Page::of(up.name());
    let lab = page.get("/api/lab").json();
    assert_eq!((&lab["schema"], &lab["lab"]), (&"vilab.view/1".into(), &"view-facts".into()));
    let names = |what: &str| -> Vec<String> {
        lab[what].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("nodes"), ["base/X", "base/Y", "base/Z", "vi/a", "vi/b", "vi/c"]);
    assert_eq!(names("links"), ["base/X--Y", "base/Y--Z", "vi/a--b", "vi/b--c"]);
    // Each is in the picture, which has no styles of its own: the policy would not let them.
    let picture = lab["picture"].as_str().unwrap();
    for name in names("nodes") {
        assert!(picture.contains(&format!("class=\"node\" data-node=\"{name}\"")), "{name}");
    }
    for name in names("links") {
        assert!(picture.contains(&format!("class=\"l link\" data-link=\"{name}\"")), "{name}");
    }
    assert!(!picture.contains("style") && !picture.contains("<script"), "{picture}");

    let node = page.get("/api/node?name=vi%2Fa").json();
    assert_eq!((&node["at"], &node["routes_are_known"]), (&"base/X".into(), &true.into()));
    assert!(node["routes"].as_array().unwrap().iter().all(|r| r["differs"] == false), "{node}");
    assert_eq!(node["services"][0]["name"], "web");
    assert_eq!(page.get("/api/log?name=web").json()["text"], "here I am\n");
    for (path, status) in [
        ("/api/node?name=vi%2Fnobody", 400),
        ("/api/node", 400),
        ("/api/log?name=..%2Fstate.yaml", 400),
        ("/api/log?name=nothing", 400),
    ] {
        let answer = page.get(path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].is_string(), "{path}");
    }

    let trace = page.post("/api/trace", &json!({ "from": "vi/a", "to": "vi/c" })).json();
    let printed = vilab(&["trace", "-l", up.name(), "vi/a", "c", "--json"]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(trace["schema"], "vilab.trace/1");
    assert_eq!((&trace["arrived"], &trace["as_computed"]), (&true.into(), &true.into()));
    let words = |trace: &Value| -> Vec<Value> {
        let headers = trace["hops"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|h| h["captured"]["headers"].as_array().unwrap());
        headers.map(|h| h["words"].clone()).collect()
    };
    assert_eq!(words(&trace).len(), 6);
    assert_eq!(words(&trace), words(&printed));
    let refused = page.post("/api/trace", &json!({ "from": "vi/a", "to": "base/Z" }));
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("different networks"));
    let refused = page.post("/api/trace", &json!({ "from": "vi/a" }));
    assert_eq!(refused.status, 400);
}

#[test]
fn links_and_nodes_go_down_and_up_and_pages_are_told() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("view-deeds", LAB, "fastpath");
    let mut page = Page::of(up.name());
    let mut news = page.live();
    let event = |news: &mut common::page::News, kind: &str| -> Value {
        let found = news.find_map(|(event, data)| {
            let value: Value = serde_json::from_str(&data).unwrap_or_default();
            (event == "event" && value["type"] == kind).then_some(value)
        });
        found.unwrap_or_else(|| panic!("no {kind}"))
    };
    let state = |news: &mut common::page::News, is: &dyn Fn(&Value) -> bool| -> Value {
        let found = news.find_map(|(event, data)| {
            let value: Value = serde_json::from_str(&data).unwrap_or_default();
            (event == "state" && is(&value)).then_some(value)
        });
        found.expect("a look at the lab")
    };
    assert_eq!(event(&mut news, "start")["schema"], "vilab.events/1");
    let first = state(&mut news, &|s| s["links"]["vi/a--b"]["state"] == "up");
    assert!(first["links"]["base/X--Y"]["packets"][0].is_u64(), "{first}");

    let cut = page.post("/api/link", &json!({ "name": "base/X--Y", "down": true }));
    assert_eq!(cut.status, 200, "{cut:?}");
    let link = |name: &str| {
        let status: Value = serde_json::from_str(&vilab(&["status", up.name(), "--json"])).unwrap();
        let links = status["links"].as_array().unwrap();
        let end = links.iter().find(|l| l["name"] == name).unwrap().to_string();
        (status["down"].clone(), end)
    };
    assert_eq!(link("X--Y").0, json!(["link base/X--Y"]));
    assert_eq!(event(&mut news, "link-down")["link"], "base/X--Y");
    let down = state(&mut news, &|s| s["links"]["base/X--Y"]["state"] == "down");
    assert_eq!(down["down"]["links"], json!(["base/X--Y"]));
    assert_eq!(down["links"]["vi/a--b"]["state"], "dead");
    let trace = page.post("/api/trace", &json!({ "from": "vi/a", "to": "vi/c" })).json();
    assert_eq!(trace["arrived"], false);
    assert_eq!(page.post("/api/link", &json!({ "name": "base/X--Y", "down": false })).status, 200);
    event(&mut news, "link-up");
    assert_eq!(link("X--Y").0, json!([]));

    assert_eq!(page.post("/api/node", &json!({ "name": "base/Y", "down": true })).status, 200);
    let down = state(&mut news, &|s| s["down"]["nodes"] == json!(["base/Y"]));
    assert_eq!(down["down"]["nodes_below"], json!(["vi/b"]));
    assert_eq!(page.post("/api/node", &json!({ "name": "base/Y", "down": false })).status, 200);
    event(&mut news, "node-up");

    let impaired =
        page.post("/api/impair", &json!({ "link": "base/Y--Z", "from": "base/Z", "delay": "5ms" }));
    assert_eq!(impaired.json()["asked"], json!(["none", "delay 5ms"]));
    assert_eq!(event(&mut news, "impairment")["from"], "base/Z");
    // The page asks for the lab again then.
    let links = page.get("/api/lab").json()["links"].clone();
    let link = links.as_array().unwrap().iter().find(|l| l["name"] == "base/Y--Z").cloned().unwrap();
    assert_eq!(link["asked"], json!(["none", "delay 5ms"]));
    assert_eq!(page.post("/api/impair", &json!({ "link": "base/Y--Z", "clear": true })).status, 200);
    for (path, body) in [
        ("/api/link", json!({ "name": "base/no", "down": true })),
        ("/api/node", json!({ "name": "base/no", "down": true })),
        ("/api/link", json!({ "name": "base/X--Y" })),
        ("/api/impair", json!({ "link": "base/X--Y", "delay": "soon" })),
        ("/api/impair", json!({ "link": "base/X--Y", "jitter": "5ms" })),
        ("/api/impair", json!({ "link": "base/X--Y", "from": "base/Z", "delay": "5ms" })),
    ] {
        let answer = page.post(path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }

    vilab(&["down", up.name()]);
    up.has_ended();
    let last = news.last();
    assert_eq!(last, Some(("end".to_owned(), "lab-down".to_owned())));
    assert!(page.ended().success());
}

#[test]
fn a_signal_ends_it_and_pages_are_told() {
    if !common::can("netns") {
        return;
    }
    let up = common::Up::new("view-signal", LAB, "fastpath");
    let mut page = Page::of(up.name());
    let mut news = page.live();
    assert!(news.any(|(event, _)| event == "state"));
    let pid = nix::unistd::Pid::from_raw(page.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(news.last(), Some(("end".to_owned(), "stopped".to_owned())));
    assert!(page.ended().success());
    let none = common::vilab().args(["view", "view-no-such-lab"]).output().unwrap();
    assert_eq!(none.status.code(), Some(2));
}

/// The lab is in a user namespace then, from inside which it has another path than its name says.
#[test]
fn a_user_without_rights_has_a_page_too() {
    let Some(bench) = Bench::unprivileged() else { return };
    let command = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.env_remove("VILAB_RUNTIME_DIR").env("XDG_RUNTIME_DIR", bench.run_dir());
        command
    };
    common::run(&mut command(&["up", &bench.file("view-user", &LAB.replace("name: l\n", ""))]));
    let mut page = Page::start(&mut command(&["view", "--json"]));
    let mut news = page.live();
    assert_eq!(page.post("/api/link", &json!({ "name": "base/X--Y", "down": true })).status, 200);
    let told = |news: &mut common::page::News, what: &str| news.any(|(_, data)| data.contains(what));
    assert!(told(&mut news, "\"link-down\""), "of what is noted in the lab's directory");
    assert_eq!(page.post("/api/impair", &json!({ "link": "base/Y--Z", "delay": "2ms" })).status, 200);
    assert!(told(&mut news, "\"impairment\""));
    let trace = page.post("/api/trace", &json!({ "from": "vi/b", "to": "vi/c" })).json();
    assert_eq!(trace["as_computed"], true, "{trace}");
    common::run(&mut command(&["down", "view-user"]));
    assert_eq!(news.last(), Some(("end".to_owned(), "lab-down".to_owned())));
    assert!(page.ended().success());
}
