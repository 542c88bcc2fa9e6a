//! A Hugging Face Hub on the loopback interface, with one small model and whatever faults a test asks for.
//!
//! The model is `own/tiny`: a configuration, and weights in "large-file storage", which are redirected to another host
//! name (`localhost` for `127.0.0.1`), as on the real Hub.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const CONFIG: &str = "{\"model_type\": \"bitnet\"}";
pub(crate) const CONFIG_ETAG: &str = "1111111111111111111111111111111111111111";

/// More than one read of the client, no power of two.
pub(crate) fn weights() -> Vec<u8> {
    (0..700_001u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What the client asked for; header names in small letters.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// Breaks the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Sends the body over seconds.
    pub(crate) slow: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A running server.
pub(crate) struct Hub {
    pub(crate) endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Hub {
    /// Serves the model; `fault` sees each request first, and the model's own answer, which it may change.
    pub(crate) fn start(fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, fault) = (requests.clone(), Arc::new(fault));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, fault) = (seen.clone(), fault.clone());
                std::thread::spawn(move || {
                    let Some(request) = read(&stream) else { return };
                    seen.lock()
                        .expect("no test panics here")
                        .push(request.clone());
                    let reply = fault(&request, model(&request, port));
                    answer(stream, &request, reply);
                });
            }
        });
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            requests,
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics here").clone()
    }

    /// Values of the header `range` in the requests for weights.
    pub(crate) fn ranges(&self) -> Vec<Option<String>> {
        let storage = |request: &Request| request.path.starts_with("/storage/");
        self.requests()
            .into_iter()
            .filter(storage)
            .map(|mut request| request.headers.remove("range"))
            .collect()
    }
}

fn model(request: &Request, port: u16) -> Reply {
    let resolve = format!("/own/tiny/resolve/{COMMIT}/");
    let weights = weights();
    match request.path.as_str() {
        "/api/models/own/tiny/revision/main" | "/api/models/own/tiny/revision/v1" => {
            let files = [
                ".gitattributes",
                "README.md",
                "config.json",
                "model.safetensors",
            ];
            let siblings: Vec<String> = files
                .iter()
                .map(|file| format!("{{\"rfilename\": \"{file}\"}}"))
                .collect();
            Reply::new(
                200,
                format!(
                    "{{\"sha\": \"{COMMIT}\", \"siblings\": [{}]}}",
                    siblings.join(",")
                ),
            )
        }
        path if path == format!("{resolve}config.json") => {
            Reply::new(200, CONFIG).with("ETag", format!("\"{CONFIG_ETAG}\""))
        }
        path if path == format!("{resolve}model.safetensors") => Reply::new(302, "elsewhere")
            .with(
                "Location",
                format!("http://localhost:{port}/storage/weights"),
            )
            .with("X-Linked-Etag", format!("\"{}\"", sha256(&weights)))
            .with("X-Linked-Size", weights.len().to_string()),
        "/storage/weights" => {
            let start = request.headers.get("range").map(|range| {
                let start = range.trim_start_matches("bytes=").trim_end_matches('-');
                start
                    .parse::<usize>()
                    .expect("a range that begins somewhere and does not end")
            });
            match start {
                None => Reply::new(200, weights),
                Some(start) if start >= weights.len() => Reply::new(416, ""),
                Some(start) => Reply::new(206, &weights[start..]).with(
                    "Content-Range",
                    format!("bytes {start}-{}/{}", weights.len() - 1, weights.len()),
                ),
            }
        }
        _ => Reply::new(404, "").with("X-Error-Code", "RepoNotFound"),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        })
        .collect();
    Some(Request {
        method,
        path,
        headers,
    })
}

fn answer(mut stream: TcpStream, request: &Request, reply: Reply) {
    let mut head = format!(
        "HTTP/1.1 {} Because\r\nConnection: close\r\nContent-Length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let body = if request.method == "HEAD" {
        &[]
    } else {
        &reply.body[..reply.cut.unwrap_or(reply.body.len())]
    };
    let parts = if reply.slow {
        body.chunks(10_000)
    } else {
        body.chunks(body.len().max(1))
    };
    let mut sent = stream.write_all(format!("{head}\r\n").as_bytes());
    for part in parts {
        // The client may have gone.
        sent = sent.and_then(|()| stream.write_all(part));
        if reply.slow {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
