//! FLOW_MOD (§A.3.4.1) and flow statistics (§A.3.5.2).

use super::{OfError, Reader, multipart_request, oxm, pad8, patch_length};
use crate::rule::{Action, PortNo, Rule};
use edgeplex_types::VlanId;

const ANY: u32 = 0xffff_ffff;
const ALL_TABLES: u8 = 0xff;
const FLOW_STATS: u16 = 1;

const GOTO_TABLE: u16 = 1;
const WRITE_METADATA: u16 = 2;
const APPLY_ACTIONS: u16 = 4;

const OUTPUT: u16 = 0;
const PUSH_VLAN: u16 = 17;
const POP_VLAN: u16 = 18;
const SET_FIELD: u16 = 25;
const ETH_TYPE_VLAN: u16 = 0x8100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowCommand {
    /// Also replaces the rule of the same table, priority and match.
    Add,
    DeleteStrict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FlowMod {
    pub(crate) command: FlowCommand,
    pub(crate) rule: Rule,
}

impl FlowMod {
    /// Body of FLOW_MOD.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Rule { cookie, table, priority, matches, actions } = &self.rule;
        let command = match self.command {
            FlowCommand::Add => 0,
            FlowCommand::DeleteStrict => 4,
        };
        let mut out = Vec::with_capacity(128);
        // A cookie mask of 0: a deletion goes by match alone.
        out.extend_from_slice(&cookie.to_be_bytes());
        out.extend_from_slice(&0u64.to_be_bytes());
        out.extend_from_slice(&[*table, command]);
        // No time-outs; then the priority.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&priority.to_be_bytes());
        for any in [ANY; 3] {
            // Buffer, output port and output group: none.
            out.extend_from_slice(&any.to_be_bytes());
        }
        out.extend_from_slice(&[0; 4]);
        oxm::encode(matches, &mut out);
        if self.command == FlowCommand::Add {
            encode_instructions(actions, &mut out);
        }
        out
    }
}

fn encode_instructions(actions: &[Action], out: &mut Vec<u8>) {
    if actions.iter().any(|a| !matches!(a, Action::Metadata(_) | Action::Goto(_))) {
        let start = out.len();
        out.extend_from_slice(&APPLY_ACTIONS.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
        actions.iter().for_each(|a| encode_action(a, out));
        patch_length(out, start, start + 2);
    }
    for a in actions {
        if let Action::Metadata(value) = a {
            out.extend_from_slice(&WRITE_METADATA.to_be_bytes());
            out.extend_from_slice(&[0, 24, 0, 0, 0, 0]);
            out.extend_from_slice(&value.to_be_bytes());
            out.extend_from_slice(&u64::MAX.to_be_bytes());
        }
    }
    for a in actions {
        if let Action::Goto(table) = a {
            out.extend_from_slice(&GOTO_TABLE.to_be_bytes());
            out.extend_from_slice(&[0, 8, *table, 0, 0, 0]);
        }
    }
}

fn encode_action(action: &Action, out: &mut Vec<u8>) {
    match action {
        Action::Output(port) => {
            out.extend_from_slice(&OUTPUT.to_be_bytes());
            out.extend_from_slice(&16u16.to_be_bytes());
            out.extend_from_slice(&port.0.to_be_bytes());
            // max_len is about the controller port only; then padding.
            out.extend_from_slice(&[0; 8]);
        }
        Action::PopVlan => out.extend_from_slice(&[0, 18, 0, 8, 0, 0, 0, 0]),
        Action::PushVlan(v) => {
            out.extend_from_slice(&PUSH_VLAN.to_be_bytes());
            out.extend_from_slice(&[0, 8]);
            out.extend_from_slice(&ETH_TYPE_VLAN.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            let start = out.len();
            out.extend_from_slice(&SET_FIELD.to_be_bytes());
            out.extend_from_slice(&[0, 0]);
            oxm::put(out, oxm::VLAN_VID, &oxm::vid(*v));
            pad8(out, start);
            patch_length(out, start, start + 2);
        }
        // The first two are instructions; what is foreign is never written.
        Action::Metadata(_) | Action::Goto(_) | Action::Foreign(_) => {}
    }
}

fn decode_instructions(r: &mut Reader<'_>) -> Result<Vec<Action>, OfError> {
    let (mut actions, mut noted, mut goto) = (vec![], None, None);
    while r.rest() > 0 {
        let (kind, length) = (r.u16("instruction type")?, usize::from(r.u16("instruction length")?));
        let body = r.take(length.checked_sub(4).ok_or_else(|| r.error("instruction length", "less than 4"))?, "instruction")?;
        let mut b = Reader::new(body);
        match kind {
            GOTO_TABLE => goto = Some(Action::Goto(b.u8("goto table")?)),
            WRITE_METADATA if body.get(12..) == Some(&u64::MAX.to_be_bytes()[..]) => {
                b.take(4, "metadata padding")?;
                noted = Some(Action::Metadata(b.u64("metadata")?));
            }
            APPLY_ACTIONS => {
                b.take(4, "instruction padding")?;
                decode_actions(&mut b, &mut actions)?;
            }
            _ => actions.push(Action::Foreign(body.to_vec())),
        }
    }
    actions.extend(noted);
    actions.extend(goto);
    Ok(actions)
}

fn decode_actions(r: &mut Reader<'_>, out: &mut Vec<Action>) -> Result<(), OfError> {
    // A push of a tag is two actions on the wire: until its SET_FIELD comes, it is kept as foreign.
    while r.rest() > 0 {
        let (kind, length) = (r.u16("action type")?, usize::from(r.u16("action length")?));
        let body = r.take(length.checked_sub(4).ok_or_else(|| r.error("action length", "less than 4"))?, "action")?;
        let raw = || Action::Foreign([&kind.to_be_bytes()[..], body].concat());
        let pushed = Action::Foreign([PUSH_VLAN.to_be_bytes(), ETH_TYPE_VLAN.to_be_bytes(), [0, 0]].concat());
        match (kind, body) {
            (OUTPUT, [a, b, c, d, ..]) => out.push(Action::Output(PortNo(u32::from_be_bytes([*a, *b, *c, *d])))),
            (POP_VLAN, _) => out.push(Action::PopVlan),
            (SET_FIELD, [0x80, 0, field, 2, hi, lo, ..]) if *field == oxm::VLAN_VID << 1 && out.last() == Some(&pushed) => {
                match VlanId::try_from(u16::from_be_bytes([*hi & 0x0f, *lo])) {
                    Ok(v) => {
                        out.pop();
                        out.push(Action::PushVlan(v));
                    }
                    Err(_) => out.push(raw()),
                }
            }
            _ => out.push(raw()),
        }
    }
    Ok(())
}

/// Body of the MULTIPART request for all flows.
pub(crate) fn encode_flow_stats_request() -> Vec<u8> {
    let mut out = multipart_request(FLOW_STATS);
    out.extend_from_slice(&[ALL_TABLES, 0, 0, 0]);
    out.extend_from_slice(&ANY.to_be_bytes());
    out.extend_from_slice(&ANY.to_be_bytes());
    out.extend_from_slice(&[0; 4 + 16]);
    oxm::encode(&crate::rule::Match::default(), &mut out);
    out
}

/// Contents of one MULTIPART reply with flows.
pub(crate) fn flow_stats(contents: &[u8]) -> Result<Vec<Rule>, OfError> {
    let mut r = Reader::new(contents);
    let mut out = vec![];
    while r.rest() > 0 {
        let length = usize::from(r.u16("flow length")?);
        let entry = r.take(length.checked_sub(2).ok_or_else(|| r.error("flow length", "less than 2"))?, "flow")?;
        let mut e = Reader::new(entry);
        let table = e.u8("flow table")?;
        e.take(1 + 8, "flow duration")?;
        let priority = e.u16("flow priority")?;
        e.take(4 + 2 + 4, "flow timeouts and flags")?;
        let cookie = e.u64("flow cookie")?;
        e.take(16, "flow counters")?;
        let matches = oxm::decode(&mut e)?;
        out.push(Rule { cookie, table, priority, matches, actions: decode_instructions(&mut e)? });
    }
    Ok(out)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::rule::{Match, VlanMatch};
    use edgeplex_types::{Label, MacAddr};
    use proptest::prelude::*;

    impl FlowMod {
        /// Only the switch reads these; here it proves the encoder.
        pub(crate) fn decode(body: &[u8]) -> Result<Self, OfError> {
            let mut r = Reader::new(body);
            let cookie = r.u64("cookie")?;
            r.take(8, "cookie mask")?;
            let table = r.u8("table")?;
            let command = match r.u8("command")? {
                0 => FlowCommand::Add,
                4 => FlowCommand::DeleteStrict,
                _ => return Err(r.error("command", "neither add nor delete-strict")),
            };
            r.take(4, "timeouts")?;
            let priority = r.u16("priority")?;
            r.take(16, "buffer, ports, flags")?;
            let matches = oxm::decode(&mut r)?;
            Ok(Self { command, rule: Rule { cookie, table, priority, matches, actions: decode_instructions(&mut r)? } })
        }
    }

    fn vlan_id() -> impl Strategy<Value = VlanId> {
        (1u16..=4094).prop_map(|v| VlanId::try_from(v).unwrap())
    }

    pub(crate) fn a_rule() -> impl Strategy<Value = Rule> {
        let vlan = prop_oneof![Just(VlanMatch::Any), Just(VlanMatch::Untagged), vlan_id().prop_map(VlanMatch::Tagged)];
        let mac = || proptest::option::of(any::<[u8; 6]>().prop_map(MacAddr));
        let label = proptest::option::of((0u32..1 << 20).prop_map(|l| Label::try_from(l).unwrap()));
        let port = || any::<u32>().prop_map(PortNo);
        let matches = (proptest::option::of(port()), any::<Option<u64>>(), vlan, any::<Option<u16>>(), mac(), mac(), label).prop_map(
            |(in_port, metadata, vlan, eth_type, eth_src, eth_dst, mpls_label)| Match {
                in_port,
                metadata,
                vlan,
                eth_type,
                eth_src,
                eth_dst,
                mpls_label,
                foreign: vec![],
            },
        );
        let action = prop_oneof![Just(Action::PopVlan), vlan_id().prop_map(Action::PushVlan), port().prop_map(Action::Output)];
        let actions = (proptest::collection::vec(action, 0..5), any::<Option<u64>>(), any::<Option<u8>>())
            .prop_map(|(a, noted, goto)| a.into_iter().chain(noted.map(Action::Metadata)).chain(goto.map(Action::Goto)).collect());
        (any::<u64>(), any::<u8>(), any::<u16>(), matches, actions).prop_map(|(cookie, table, priority, matches, actions)| Rule {
            cookie,
            table,
            priority,
            matches,
            actions,
        })
    }

    proptest! {
        #[test]
        fn flow_mods_read_back(rule in a_rule()) {
            let m = FlowMod { command: FlowCommand::Add, rule };
            prop_assert_eq!(FlowMod::decode(&m.encode()).unwrap(), m);
        }

        #[test]
        fn a_cut_flow_mod_is_an_error_or_shorter(rule in a_rule(), cut in 0usize..200) {
            let m = FlowMod { command: FlowCommand::Add, rule };
            let bytes = m.encode();
            if let Ok(other) = FlowMod::decode(&bytes[..cut.min(bytes.len())]) {
                prop_assert!(other.rule.actions.len() <= m.rule.actions.len());
            }
        }
    }

    /// An entry as Open vSwitch 3.1 writes it: its own order of OXM fields, one entry.
    #[test]
    fn a_flow_of_the_switch_reads_as_the_rule_that_made_it() {
        let mut e = vec![0, 0, 0, 0];
        e.extend([0; 8]);
        e.extend([0, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        e.extend(7u64.to_be_bytes());
        e.extend([0; 16]);
        e.extend([0, 1, 0, 18, 0x80, 0, 0, 4, 0, 0, 0, 3, 0x80, 0, 12, 2, 0x10, 100, 0, 0, 0, 0, 0, 0]);
        e.extend([0, 4, 0, 32, 0, 0, 0, 0, 0, 18, 0, 8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 4, 0xff, 0xe5, 0, 0, 0, 0, 0, 0]);
        e[1] = u8::try_from(e.len()).unwrap();
        let matches = Match { in_port: Some(PortNo(3)), vlan: VlanMatch::Tagged(VlanId::try_from(100).unwrap()), ..Match::default() };
        let actions = vec![Action::PopVlan, Action::Output(PortNo(4))];
        assert_eq!(flow_stats(&e).unwrap(), [Rule { cookie: 7, table: 0, priority: 200, matches, actions }]);
    }

    #[test]
    fn fields_and_actions_that_are_not_ours_are_kept_apart() {
        let foreign = vec![0x80, 0, 20, 1, 6];
        let rule = Rule { cookie: 0, table: 0, priority: 0, matches: Match { foreign, ..Match::default() }, actions: vec![] };
        let mut m = FlowMod { command: FlowCommand::Add, rule };
        let mut bytes = m.encode();
        bytes.extend([0, 4, 0, 16, 0, 0, 0, 0, 0, 24, 0, 8, 0, 0, 0, 0]);
        m.rule.actions = vec![Action::Foreign(vec![0, 24, 0, 0, 0, 0])];
        assert_eq!(FlowMod::decode(&bytes).unwrap(), m);
    }
}
