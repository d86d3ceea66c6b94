//! Who may speak with the page's server. What a request says of itself goes in; whether it is answered comes out. It never
//! takes longer for a token that is nearly right.
//!
//! The address of the page holds a token of 256 random bits. The page keeps it and sends it with every request for facts
//! and deeds in a header, which no other page can do. Its scripts and styles, the same for every lab, are opened by a cookie,
//! which holds a hash of the token: browsers send cookies to all ports of an address, so it must not be worth anything elsewhere.

use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use ctutils::CtEq as _;
use sha2::{Digest as _, Sha256};

use crate::error::{Context as _, Kind, Result};

/// The header in which the page sends the token.
pub(super) const TOKEN: &str = "x-vilab-token";
/// What stands before every request for facts and deeds.
pub(super) const API: &str = "/api/";
const BYTES: usize = 32;

/// What opens one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    port: u16,
    token: String,
    /// Hash of the token, for the cookie.
    pass: String,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the request is for another host")]
    Host,
    #[error("the request comes from another page")]
    Origin,
    #[error("the token is missing or wrong; open the address that `vilab view` printed")]
    Token,
}

impl Refused {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }
}

impl Access {
    pub(super) fn new(port: u16) -> Result<Self> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).doing(Kind::Environment, || "cannot draw a token".to_owned())?;
        Ok(Self::with(port, hex(&bytes)))
    }

    fn with(port: u16, token: String) -> Self {
        let pass = hex(&Sha256::new().chain_update("vilab view ").chain_update(&token).finalize());
        Self { port, token, pass }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    /// What the browser is told to send with requests for scripts and styles.
    pub(super) fn cookie(&self) -> String {
        format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name(), self.pass)
    }

    /// Cookies are not told apart by port.
    fn cookie_name(&self) -> String {
        format!("vilab-{}", self.port)
    }

    /// Whether a request is answered.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> std::result::Result<(), Refused> {
        let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
        // A name that an attacker has led here (DNS rebinding) is not one of these.
        if !self.hosts().iter().any(|host| header(HOST) == Some(host)) {
            return Err(Refused::Host);
        }
        let own = |origin: &str| self.hosts().iter().any(|host| origin == format!("http://{host}"));
        match header(ORIGIN) {
            Some(origin) if !own(origin) => return Err(Refused::Origin),
            None if changes(method) || headers.contains_key(ORIGIN) => return Err(Refused::Origin),
            _ => {}
        }
        let sent = headers.get(TOKEN).is_some_and(|v| same(v.as_bytes(), &self.token));
        let opens = || {
            sent || self.is_in_query(uri)
                || headers.get_all(COOKIE).iter().any(|c| self.is_pass(c.as_bytes()))
        };
        let may = if uri.path().starts_with(API) { sent } else { opens() };
        if may { Ok(()) } else { Err(Refused::Token) }
    }

    fn hosts(&self) -> [String; 2] {
        ["127.0.0.1", "localhost"].map(|host| format!("{host}:{}", self.port))
    }

    /// The address as it was printed, which alone may hold the token.
    fn is_in_query(&self, uri: &Uri) -> bool {
        let token = uri.query().and_then(|q| q.split('&').find_map(|pair| pair.strip_prefix("token=")));
        uri.path() == "/" && token.is_some_and(|token| same(token.as_bytes(), &self.token))
    }

    fn is_pass(&self, cookies: &[u8]) -> bool {
        let name = self.cookie_name();
        String::from_utf8_lossy(cookies).split(';').any(|cookie| {
            let pair = cookie.trim().split_once('=');
            pair.is_some_and(|(n, value)| n == name && same(value.as_bytes(), &self.pass))
        })
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// In a time that does not say where they differ.
fn same(sent: &[u8], secret: &str) -> bool {
    sent.ct_eq(secret.as_bytes()).to_bool()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, uri: &str, headers: &[(&'static str, &str)]) -> std::result::Result<(), Refused> {
        let access = Access::with(8000, "secret".to_owned());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.replace("PASS", &access.pass).parse().unwrap());
        }
        access.check(&method.parse().unwrap(), &uri.parse().unwrap(), &map)
    }

    #[test]
    fn a_token_is_long_and_never_the_same() {
        let [a, b] = [0, 1].map(|_| Access::new(1).unwrap().token);
        assert!(a.len() == 64 && a != b);
    }

    #[test]
    fn what_opens_what() {
        const HERE: (&str, &str) = ("host", "127.0.0.1:8000");
        const OWN: (&str, &str) = ("origin", "http://127.0.0.1:8000");
        const SENT: (&str, &str) = (TOKEN, "secret");
        let pass = ("cookie", "other=1; vilab-8000=PASS");
        for (method, uri, headers, is) in [
            ("GET", "/", vec![HERE], Err(Refused::Token)),
            ("GET", "/?token=secret", vec![HERE], Ok(())),
            ("GET", "/?a=b&token=secret", vec![("host", "localhost:8000")], Ok(())),
            ("GET", "/?token=secre", vec![HERE], Err(Refused::Token)),
            ("GET", "/?token=", vec![HERE], Err(Refused::Token)),
            ("GET", "/app.js", vec![HERE, pass], Ok(())),
            ("GET", "/app.js?token=secret", vec![HERE], Err(Refused::Token)),
            ("GET", "/app.js", vec![HERE, ("cookie", "vilab-8000=secret")], Err(Refused::Token)),
            ("GET", "/app.js", vec![HERE, ("cookie", "vilab-8001=PASS")], Err(Refused::Token)),
            ("GET", "/api/lab", vec![HERE, SENT], Ok(())),
            ("GET", "/api/lab", vec![HERE, pass], Err(Refused::Token)),
            ("GET", "/api/lab?token=secret", vec![HERE], Err(Refused::Token)),
            ("GET", "/api/lab", vec![("host", "evil.example:8000"), SENT], Err(Refused::Host)),
            ("GET", "/api/lab", vec![("host", "127.0.0.1"), SENT], Err(Refused::Host)),
            ("GET", "/api/lab", vec![SENT], Err(Refused::Host)),
            ("GET", "/api/lab", vec![HERE, SENT, ("origin", "http://evil.example")], Err(Refused::Origin)),
            ("POST", "/api/link", vec![HERE, SENT, OWN], Ok(())),
            ("POST", "/api/link", vec![HERE, OWN], Err(Refused::Token)),
            ("POST", "/api/link", vec![HERE, SENT], Err(Refused::Origin)),
            ("POST", "/api/link", vec![HERE, SENT, ("origin", "null")], Err(Refused::Origin)),
            (
                "POST",
                "/api/link",
                vec![HERE, SENT, ("origin", "http://127.0.0.1:8001")],
                Err(Refused::Origin),
            ),
        ] {
            assert_eq!(check(method, uri, &headers), is, "{method} {uri} {headers:?}");
        }
    }
}
