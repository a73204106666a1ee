// The two cookie functions in Rust, as a target of the differential bench:
//     rustc -O -o cookie examples/cookie.rs
//     gnutls-cookie diff --exec ./cookie
// or run on the vectors of a file, of which each test is a line:
//     gnutls-cookie vectors > vectors.json && ./cookie vectors.json
// With --wrong one fault is planted: a datagram may end with its cookie. The reader of JSON knows
// what the bench writes, and nothing else.
use std::io::{self, BufRead, Write};

const UNEXPECTED_PACKET_LENGTH: i64 = -9;
const INVALID_REQUEST: i64 = -50;
const PUSH_ERROR: i64 = -53;
const BAD_COOKIE: i64 = -214;

fn sha1(data: &[u8]) -> [u8; 20] {
    let mut h: [u32; 5] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
    let mut padded = data.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((data.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut w = [0u32; 80];
        for (i, word) in block.chunks(4).enumerate() {
            w[i] = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
        }
        for i in 16..80 {
            w[i] = (w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (i, word) in w.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => ((b & c) | (!b & d), 0x5a827999),
                1 => (b ^ c ^ d, 0x6ed9eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1bbcdc),
                _ => (b ^ c ^ d, 0xca62c1d6u32),
            };
            let next = a.rotate_left(5).wrapping_add(f).wrapping_add(e).wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, one) in h.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(one);
        }
    }
    let mut found = [0; 20];
    for (place, word) in found.chunks_mut(4).zip(h) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    found
}

fn cookie(key: &[u8], client_data: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { sha1(key).to_vec() } else { key.to_vec() };
    block.resize(64, 0);
    let mut inner: Vec<u8> = block.iter().map(|one| one ^ 0x36).collect();
    inner.extend(client_data);
    let mut outer: Vec<u8> = block.iter().map(|one| one ^ 0x5c).collect();
    outer.extend(sha1(&inner));
    sha1(&outer)[..16].to_vec()
}

// 0 and the new prestate, or a negative code.
fn verify(key: &[u8], client_data: &[u8], message: &[u8], wrong: bool) -> Result<[u64; 3], i64> {
    if key.is_empty() {
        return Err(INVALID_REQUEST);
    }
    let session_id = *message.get(59).ok_or(UNEXPECTED_PACKET_LENGTH)? as usize;
    let start = 61 + session_id;
    if session_id > 32 || message.len() < start {
        return Err(UNEXPECTED_PACKET_LENGTH);
    }
    let end = start + message[start - 1] as usize;
    if message.len() < end + if wrong { 0 } else { 1 } {
        return Err(UNEXPECTED_PACKET_LENGTH);
    }
    if end - start != 16 || message[start..end] != cookie(key, client_data)[..] {
        return Err(BAD_COOKIE);
    }
    Ok([message[10] as u64, message[18] as u64, 0])
}

// The result, and the datagram given to push; None where push is not called.
fn send(key: &[u8], client_data: &[u8], prestate: &[u64], pushed: Option<i64>) -> (i64, Option<Vec<u8>>) {
    if key.is_empty() {
        return (INVALID_REQUEST, None);
    }
    let mut datagram = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, prestate[0] as u8, 0, 31];
    datagram.extend([3, 0, 0, 19, 0, prestate[2] as u8, 0, 0, 0, 0, 0, 19, 0xfe, 0xff, 16]);
    datagram.extend(cookie(key, client_data));
    let narrowed = pushed.unwrap_or(datagram.len() as i64) as i32;
    let result = if narrowed < 0 { PUSH_ERROR } else { narrowed as i64 };
    (result, Some(datagram))
}

// What stands behind a name, up to its end; "" where the name is not there.
fn member<'a>(line: &'a str, name: &str) -> &'a str {
    let start = match line.find(&format!("\"{name}\": ")) {
        Some(at) => at + name.len() + 4,
        None => return "",
    };
    let rest = &line[start..];
    let end = match rest.as_bytes()[0] {
        b'"' => rest[1..].find('"').unwrap() + 2,
        b'[' => rest.find(']').unwrap() + 1,
        b'{' => rest.find('}').unwrap() + 1,
        _ => rest.find([',', '}']).unwrap(),
    };
    &rest[..end]
}

fn bytes(line: &str, name: &str) -> Vec<u8> {
    let text = member(line, name).trim_matches('"');
    if text == "null" {
        return Vec::new();
    }
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|one| format!("{one:02x}")).collect()
}

fn answer(line: &str, wrong: bool) -> String {
    let operation = member(line, "operation");
    if operation == "\"hello\"" {
        return "{\"operations\": [\"verify\", \"send\"]}".to_string();
    }
    let (key, client_data) = (bytes(line, "key"), bytes(line, "client_data"));
    let before = member(line, "prestate");
    if operation == "\"verify\"" {
        return match verify(&key, &client_data, &bytes(line, "message"), wrong) {
            Ok(after) => format!("{{\"result\": 0, \"prestate\": {after:?}}}"),
            Err(code) => format!("{{\"result\": {code}, \"prestate\": {before}}}"),
        };
    }
    let numbers: Vec<u64> =
        before.trim_matches(['[', ']']).split(", ").map(|one| one.parse().unwrap()).collect();
    match send(&key, &client_data, &numbers, member(line, "pushed").parse().ok()) {
        (result, None) => format!("{{\"result\": {result}, \"prestate\": {before}}}"),
        (result, Some(datagram)) => format!(
            "{{\"result\": {result}, \"pushed\": \"{}\", \"prestate\": {before}}}",
            hex(&datagram)
        ),
    }
}

// Each vector of a file that is answered otherwise; whether there is none.
fn run_vectors(path: &str, wrong: bool) -> io::Result<bool> {
    let (mut asked, mut failed) = (0, 0);
    for line in std::fs::read_to_string(path)?.lines().filter(|line| line.contains("\"tcId\"")) {
        let (question, expected) = (member(line, "case"), member(line, "answer"));
        if !["\"verify\"", "\"send\""].contains(&member(question, "operation")) {
            continue;
        }
        asked += 1;
        let got = answer(question, wrong);
        let names = ["result", "pushed", "prestate"];
        if names.iter().any(|name| member(&got, name) != member(expected, name)) {
            failed += 1;
            println!("vector {}, {}: {got}", member(line, "tcId"), member(line, "name"));
        }
    }
    println!("{asked} vectors, {failed} answered otherwise");
    Ok(asked > 0 && failed == 0)
}

fn main() -> io::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let wrong = arguments.iter().any(|one| one == "--wrong");
    arguments.retain(|one| one != "--wrong");
    if let Some(path) = arguments.first() {
        let right = run_vectors(path, wrong)?;
        std::process::exit(if right { 0 } else { 1 });
    }
    for line in io::stdin().lock().lines() {
        println!("{}", answer(&line?, wrong));
        io::stdout().flush()?;
    }
    Ok(())
}
