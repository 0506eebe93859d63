//! Messages in words, for the stories.

use edgeplex_ldp::Config;
use edgeplex_ldp::packet::{
    Capabilities, CapabilityChange, FaultTolerance, FecElement, Hello, Initialization, LabelMessage, LdpId, Mapping, Message, Notification,
    Status,
};
use edgeplex_types::Label;
use std::{net::Ipv4Addr, time::Duration};

const STATUSES: &[(&str, Status)] = &[
    ("bad-ldp-identifier", Status::BAD_LDP_IDENTIFIER),
    ("bad-protocol-version", Status::BAD_PROTOCOL_VERSION),
    ("bad-pdu-length", Status::BAD_PDU_LENGTH),
    ("unknown-message-type", Status::UNKNOWN_MESSAGE_TYPE),
    ("bad-message-length", Status::BAD_MESSAGE_LENGTH),
    ("unknown-tlv", Status::UNKNOWN_TLV),
    ("bad-tlv-length", Status::BAD_TLV_LENGTH),
    ("malformed-tlv-value", Status::MALFORMED_TLV_VALUE),
    ("hold-timer-expired", Status::HOLD_TIMER_EXPIRED),
    ("shutdown", Status::SHUTDOWN),
    ("loop-detected", Status::LOOP_DETECTED),
    ("unknown-fec", Status::UNKNOWN_FEC),
    ("no-route", Status::NO_ROUTE),
    ("no-label-resources", Status::NO_LABEL_RESOURCES),
    ("rejected-no-hello", Status::REJECTED_NO_HELLO),
    ("rejected-advertisement-mode", Status::REJECTED_ADVERTISEMENT_MODE),
    ("keepalive-timer-expired", Status::KEEPALIVE_TIMER_EXPIRED),
    ("label-request-aborted", Status::LABEL_REQUEST_ABORTED),
    ("missing-message-parameters", Status::MISSING_MESSAGE_PARAMETERS),
    ("unsupported-address-family", Status::UNSUPPORTED_ADDRESS_FAMILY),
    ("rejected-keepalive-time", Status::REJECTED_KEEPALIVE_TIME),
    ("end-of-lib", Status::END_OF_LIB),
];

fn say_fec(fec: &FecElement) -> String {
    match fec {
        FecElement::Wildcard => "*".to_owned(),
        FecElement::Prefix(prefix) => prefix.to_string(),
        all if *all == FecElement::all_ipv4() => "all-ipv4".to_owned(),
        FecElement::TypedWildcard { element, .. } => format!("all-{element}"),
    }
}

fn hear_fec(text: &str) -> Result<FecElement, String> {
    match text {
        "*" => Ok(FecElement::Wildcard),
        "all-ipv4" => Ok(FecElement::all_ipv4()),
        "all-128" => Ok(FecElement::TypedWildcard { element: 128, info: vec![0, 5] }),
        prefix => prefix.parse().map(FecElement::Prefix).map_err(|e| format!("{prefix}: {e}")),
    }
}

fn fecs(list: &[FecElement]) -> String {
    list.iter().map(say_fec).collect::<Vec<_>>().join(",")
}

fn hear_fecs(text: &str) -> Result<Vec<FecElement>, String> {
    text.split(',').map(hear_fec).collect()
}

pub(crate) fn say(message: &Message) -> String {
    let labelled = |m: &LabelMessage| format!("{}{}", fecs(&m.fecs), m.label.map_or(String::new(), |l| format!(" {l}")));
    let list = |a: &[Ipv4Addr]| a.iter().map(|a| format!(" {a}")).collect::<String>();
    match message {
        Message::Notification(n) if n.status == Status::END_OF_LIB => format!("end-of-lib {}", n.fec.as_ref().map_or("-".into(), say_fec)),
        Message::Notification(n) => {
            let name = STATUSES.iter().find(|(_, s)| *s == n.status).map_or(n.status.to_string(), |(name, _)| (*name).to_owned());
            let about = if n.message_id == 0 { String::new() } else { format!(" about {} {:#06x}", n.message_id, n.message_kind) };
            format!("notification {name}{about}")
        }
        Message::Hello(h) => {
            let gtsm = if h.gtsm { " gtsm" } else { "" };
            format!("hold {} transport {:?} sequence {:?}{gtsm}", h.hold_s, h.transport_address, h.configuration_sequence)
        }
        Message::Initialization(i) => {
            let ft = i.fault_tolerance.map_or(String::new(), |ft| format!(" reconnect {:?} recovery {:?}", ft.reconnect, ft.recovery));
            format!("init {} keepalive {}{ft}", i.receiver.lsr_id, i.keepalive_s)
        }
        Message::KeepAlive => "keepalive".to_owned(),
        Message::Capability(_) => "capability".to_owned(),
        Message::Address(a) => format!("address{}", list(a)),
        Message::AddressWithdraw(a) => format!("address-withdraw{}", list(a)),
        Message::LabelMapping(m) => {
            format!("mapping {} {}{}", fecs(&m.fecs), m.label, m.request_id.map_or(String::new(), |id| format!(" request {id}")))
        }
        Message::LabelRequest(f) => format!("request {}", fecs(f)),
        Message::LabelWithdraw(m) => format!("withdraw {}", labelled(m)),
        Message::LabelRelease(m) => format!("release {}", labelled(m)),
        Message::LabelAbortRequest { fecs: f, request_id } => format!("abort {} {request_id}", fecs(f)),
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

fn label(text: &str) -> Result<Label, String> {
    Label::try_from(number::<u32>(text)?).map_err(|e| e.to_string())
}

/// The number after a word, if the word is there.
fn after<T: std::str::FromStr<Err: std::fmt::Display>>(words: &[&str], word: &str) -> Result<Option<T>, String> {
    match words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1)) {
        Some(text) => number(text).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn hear(words: &[&str], us: Ipv4Addr) -> Result<Message, String> {
    let labelled = |fecs: &str, more: &[&str]| {
        let label = more.first().map(|l| label(l)).transpose()?;
        Ok::<_, String>(LabelMessage { fecs: hear_fecs(fecs)?, label })
    };
    Ok(match words {
        // init [to LSR-ID] [keepalive N] [reconnect S recovery S] [plain]
        ["init", more @ ..] => {
            let seconds = |word| after::<u64>(more, word).map(|s| s.map(Duration::from_secs));
            let able = !more.contains(&"plain");
            let recovery = seconds("recovery")?.unwrap_or_default();
            Message::Initialization(Initialization {
                version: 1,
                keepalive_s: after(more, "keepalive")?.unwrap_or(60),
                downstream_on_demand: more.contains(&"on-demand"),
                loop_detection: false,
                path_vector_limit: 0,
                max_pdu: after(more, "max-pdu")?.unwrap_or(4096),
                receiver: LdpId { lsr_id: after(more, "to")?.unwrap_or(us), label_space: 0 },
                fault_tolerance: seconds("reconnect")?.map(|reconnect| FaultTolerance { reconnect, recovery }),
                capabilities: Capabilities { dynamic: able, typed_wildcard: able, unrecognized_notification: able },
            })
        }
        ["keepalive"] => Message::KeepAlive,
        ["capability", "no-typed-wildcard"] => {
            Message::Capability(CapabilityChange { typed_wildcard: Some(false), unrecognized_notification: None })
        }
        ["address", addresses @ ..] => Message::Address(addresses.iter().map(|a| number(a)).collect::<Result<_, _>>()?),
        ["address-withdraw", addresses @ ..] => Message::AddressWithdraw(addresses.iter().map(|a| number(a)).collect::<Result<_, _>>()?),
        ["mapping", fecs, l, more @ ..] => {
            Message::LabelMapping(Mapping { fecs: hear_fecs(fecs)?, label: label(l)?, request_id: after(more, "request")? })
        }
        ["request", fecs] => Message::LabelRequest(hear_fecs(fecs)?),
        ["withdraw", fecs, more @ ..] => Message::LabelWithdraw(labelled(fecs, more)?),
        ["release", fecs, more @ ..] => Message::LabelRelease(labelled(fecs, more)?),
        ["abort", fecs, id] => Message::LabelAbortRequest { fecs: hear_fecs(fecs)?, request_id: number(id)? },
        ["end-of-lib"] => {
            let fec = Some(FecElement::all_ipv4());
            Message::Notification(Notification { status: Status::END_OF_LIB, message_id: 0, message_kind: 0, fec })
        }
        ["notification", name] => {
            let (_, status) = STATUSES.iter().find(|(n, _)| n == name).ok_or(format!("`{name}` is not a status"))?;
            Message::Notification(Notification { status: *status, message_id: 0, message_kind: 0, fec: None })
        }
        _ => return Err(format!("`{}` is not a message", words.join(" "))),
    })
}

pub(crate) fn hello(words: &[&str], lsr_id: Ipv4Addr) -> Result<Hello, String> {
    Ok(Hello {
        hold_s: after(words, "hold")?.unwrap_or(15),
        targeted: words.contains(&"targeted"),
        request_targeted: false,
        gtsm: words.contains(&"gtsm"),
        transport_address: Some(after(words, "transport")?.unwrap_or(lsr_id)),
        configuration_sequence: after(words, "sequence")?,
    })
}

pub(crate) fn configure(config: &mut Config, words: &[&str]) -> Result<(), String> {
    match words {
        ["lsr-id", id] => config.lsr_id = number(id)?,
        ["explicit-null"] => config.explicit_null = true,
        ["host-routes-only"] => config.host_routes_only = true,
        ["reconnect", s] => config.reconnect = Duration::from_secs(number(s)?),
        ["recovery", s] => config.recovery = Duration::from_secs(number(s)?),
        ["hold", s] => config.hold = Duration::from_secs(number(s)?),
        ["keepalive", s] => config.keepalive_s = number(s)?,
        ["password", who, password] => drop(config.passwords.insert(number(who)?, (*password).to_owned())),
        ["labels", first, last] => {
            config.labels = edgeplex_types::LabelRange::new(label(first)?, label(last)?).map_err(|e| e.to_string())?;
        }
        ["interfaces", names @ ..] => config.interfaces = names.iter().map(|n| (*n).into()).collect(),
        _ => return Err(format!("`{}` is not a setting", words.join(" "))),
    }
    Ok(())
}

pub(crate) fn hex(digits: &str) -> Result<Vec<u8>, String> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2).unwrap_or("?"), 16).map_err(|e| e.to_string()))
        .collect()
}
