//! Port descriptions (§A.2.1) from MULTIPART PORT_DESC and PORT_STATUS.

use super::{OfError, Reader, multipart_request};
use crate::rule::PortNo;

const PORT_DESC: u16 = 13;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortDesc {
    pub(crate) number: PortNo,
    pub(crate) name: String,
}

/// Body of the MULTIPART request for all ports.
pub(crate) fn encode_port_desc_request() -> Vec<u8> {
    multipart_request(PORT_DESC)
}

fn port(r: &mut Reader<'_>) -> Result<PortDesc, OfError> {
    let number = PortNo(r.u32("port number")?);
    r.take(4 + 6 + 2, "port address")?;
    let name: [u8; 16] = r.array("port name")?;
    r.take(8 * 4, "port features")?;
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    Ok(PortDesc { number, name: String::from_utf8_lossy(name).into_owned() })
}

/// Contents of one MULTIPART reply with ports.
pub(crate) fn port_descriptions(contents: &[u8]) -> Result<Vec<PortDesc>, OfError> {
    let mut r = Reader::new(contents);
    let mut out = vec![];
    while r.rest() > 0 {
        out.push(port(&mut r)?);
    }
    Ok(out)
}

/// Body of PORT_STATUS: (the port, whether it has gone).
pub(crate) fn port_status(body: &[u8]) -> Result<(PortDesc, bool), OfError> {
    let mut r = Reader::new(body);
    let reason = r.u8("port status reason")?;
    r.take(7, "port status padding")?;
    Ok((port(&mut r)?, reason == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_back_and_a_cut_one_is_an_error() {
        let mut p = vec![0, 0, 0, 5];
        p.extend([0; 12]);
        p.extend(b"eth1\0\0\0\0\0\0\0\0\0\0\0\0");
        p.extend([0; 32]);
        let want = PortDesc { number: PortNo(5), name: "eth1".into() };
        assert_eq!(port_descriptions(&p.repeat(2)).unwrap(), [want.clone(), want.clone()]);
        assert!(port_descriptions(&p[..63]).is_err());
        assert_eq!(port_status(&[&[1, 0, 0, 0, 0, 0, 0, 0], &p[..]].concat()).unwrap(), (want, true));
    }
}
