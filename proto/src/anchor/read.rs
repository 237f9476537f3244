//! Decides which texts are anchors: fixed order, `g` last, nothing that is not in the grammar.

use super::{Anchor, AnchorEndpoint, AnchorError, AnchorLines, PRIORITY, WEIGHT};
use crate::address::Local;
use crate::base64url;
use crate::key::PublicKey;
use crate::limit;
use crate::time::Timestamp;

const VERSION: &str = "v=ahoy1";
/// Tags in their order, without `g`, which ends the record; `true` = must be there.
const TAGS: [(&str, bool); 7] =
    [("k", true), ("s", true), ("x", false), ("n", false), ("e", true), ("c", false), ("l", false)];

pub(super) fn read(text: &str) -> Result<Anchor, AnchorError> {
    let text = clean(text)?;
    let rest = text.strip_prefix(VERSION).ok_or(AnchorError::NotAnAnchor)?;
    if rest.is_empty() {
        return Err(AnchorError::Tag("k"));
    }
    let rest = rest.strip_prefix(';').ok_or(AnchorError::NotAnAnchor)?;
    // The last field is the signature, and no value holds a `;`.
    let (fields, signature) = rest.rsplit_once(";g=").ok_or(AnchorError::Tag("g"))?;
    let signature = base64url::decode::<64>(signature).ok_or(AnchorError::Tag("g"))?;
    let mut fields = fields.split(';').peekable();
    let mut values = [None; TAGS.len()];
    for (value, (tag, required)) in values.iter_mut().zip(TAGS) {
        *value = fields.next_if(|f| tag_of(f) == tag).map(|f| &f[tag.len() + 1..]);
        if *value == Some("") || (required && value.is_none()) {
            return Err(AnchorError::Tag(tag));
        }
    }
    fields.try_for_each(extension)?;
    let [key, signed_at, expires, next, endpoints, capabilities, lines] = values;
    Ok(Anchor {
        signed: text.len() - ";g=".len() - 86,
        signature,
        key: PublicKey::parse_base64url(key.unwrap_or_default()).map_err(|_| AnchorError::Key)?,
        signed_at: seconds(signed_at.unwrap_or_default(), "s")?,
        expires: expires.map(|x| seconds(x, "x")).transpose()?,
        next: next.map(|n| base64url::decode(n).ok_or(AnchorError::Tag("n"))).transpose()?,
        endpoints: read_endpoints(endpoints.unwrap_or_default())?,
        capabilities: capabilities.map(read_capabilities).transpose()?,
        lines: lines.map(read_lines).transpose()?,
        text,
    })
}

/// Deletes what DNS forms add; the work is bounded whatever is handed in. `[NAME-ANCHOR-02]` `[NAME-ANCHOR-03]`
fn clean(text: &str) -> Result<String, AnchorError> {
    let mut out = String::with_capacity(text.len().min(limit::ANCHOR_CHARS));
    for c in text.chars().filter(|c| !matches!(c, ' ' | '\t' | '"' | '\\')) {
        if out.len() == VERSION.len() && out != VERSION {
            return Err(AnchorError::NotAnAnchor);
        }
        if out.len() == limit::ANCHOR_CHARS {
            return Err(AnchorError::TooLong);
        }
        if !c.is_ascii_graphic() {
            return Err(if out.starts_with(VERSION) {
                AnchorError::Character
            } else {
                AnchorError::NotAnAnchor
            });
        }
        out.push(c);
    }
    Ok(out)
}

fn tag_of(field: &str) -> &str {
    field.split_once('=').map_or("", |(tag, _)| tag)
}

/// What follows the known tags: ignored in lower case, refused otherwise. `[NAME-ANCHOR-07]`
fn extension(field: &str) -> Result<(), AnchorError> {
    let tag = tag_of(field);
    // A known tag here is out of its place or there twice.
    if let Some(known) = ["v", "k", "s", "x", "n", "e", "c", "l", "g"].into_iter().find(|t| *t == tag) {
        return Err(AnchorError::Tag(known));
    }
    if !(1..=2).contains(&tag.len()) || !tag.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(AnchorError::Tag("ext"));
    }
    if tag.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(AnchorError::Critical);
    }
    Ok(())
}

fn seconds(digits: &str, tag: &'static str) -> Result<Timestamp, AnchorError> {
    let all_digits = (1..=13).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(s) if all_digits => Ok(Timestamp::from_secs(s)),
        _ => Err(AnchorError::Tag(tag)),
    }
}

fn read_endpoints(text: &str) -> Result<Vec<AnchorEndpoint>, AnchorError> {
    if text == "." {
        return Ok(Vec::new());
    }
    let endpoints: Vec<_> = text.split(',').take(limit::ANCHOR_ENDPOINTS + 1).collect();
    if endpoints.len() > limit::ANCHOR_ENDPOINTS {
        return Err(AnchorError::Endpoint);
    }
    endpoints.into_iter().map(read_endpoint).collect()
}

fn read_endpoint(text: &str) -> Result<AnchorEndpoint, AnchorError> {
    let Some((host, numbers)) = text.split_once(':') else {
        return AnchorEndpoint::at(text);
    };
    let mut numbers = numbers.split('/').map(number);
    let port = numbers.next().flatten().ok_or(AnchorError::Endpoint)?;
    let mut or_default = |default| match numbers.next() {
        None => Ok(default),
        Some(value) => value.ok_or(AnchorError::Endpoint),
    };
    let (priority, weight) = (or_default(PRIORITY)?, or_default(WEIGHT)?);
    if numbers.next().is_some() {
        return Err(AnchorError::Endpoint);
    }
    AnchorEndpoint::new(host, port, priority, weight)
}

/// One to five digits within 16 bits; no sign, no leading zero.
fn number(digits: &str) -> Option<u16> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

fn read_capabilities(text: &str) -> Result<String, AnchorError> {
    if (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic()) {
        Ok(text.to_owned())
    } else {
        Err(AnchorError::Tag("c"))
    }
}

fn read_lines(text: &str) -> Result<AnchorLines, AnchorError> {
    // A local part cannot end in `+`.
    let (list, complete) = text.strip_suffix('+').map_or((text, true), |list| (list, false));
    let lines: Vec<_> = list.split(',').take(limit::ANCHOR_LINES + 1).map(Local::from_wire).collect();
    if lines.len() > limit::ANCHOR_LINES {
        return Err(AnchorError::Tag("l"));
    }
    let lines = lines.into_iter().collect::<Result<_, _>>().map_err(|_| AnchorError::Tag("l"))?;
    Ok(AnchorLines { lines, complete })
}
