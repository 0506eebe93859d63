//! Changes that customers and the NOC make all day, and that nobody else may notice.

use super::{
    Evidence,
    site::{CITIES, CONVERGE, CUSTOMERS, Ctx, extra_prefix, number, other, pe_address},
};
use crate::traffic::stop_all;
use crate::wait;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

fn set_extra(ctx: &Ctx<'_>, customer: &str, city: &str, announce: bool) -> Result<()> {
    let ce = ctx.ce(customer, city)?;
    if customer == "acme" {
        ce.run(&["birdc", if announce { "enable" } else { "disable" }, "extra"])?;
    } else {
        let prefix = extra_prefix(city);
        let line = if announce { format!("network {prefix}") } else { format!("no network {prefix}") };
        let router = format!("router bgp 6520{}", number(city));
        ce.run(&["vtysh", "-c", "configure terminal", "-c", &router, "-c", "address-family ipv4 unicast", "-c", &line])?;
    }
    Ok(())
}

fn wait_prefix(ctx: &Ctx<'_>, customer: &str, city: &str, prefix: &str, there: bool, deadline: Duration) -> Result<()> {
    let what = format!("{prefix} {} in {customer}'s CE in {city}", if there { "arrives" } else { "disappears" });
    wait::until_true(&what, deadline, || Ok(ctx.ce_has(customer, city, prefix)? == there))
}

/// A prefix of one city's CE goes from the other's and comes back.
pub(super) fn withdraw_and_announce(ctx: &Ctx<'_>, customer: &str, from: &str, to: &str) -> Result<()> {
    let prefix = extra_prefix(from);
    wait_prefix(ctx, customer, to, &prefix, true, CONVERGE)?;
    set_extra(ctx, customer, from, false)?;
    let gone = wait_prefix(ctx, customer, to, &prefix, false, CONVERGE);
    set_extra(ctx, customer, from, true)?;
    gone?;
    wait_prefix(ctx, customer, to, &prefix, true, CONVERGE)
}

fn delete(ctx: &Ctx<'_>, customer: &str) -> Result<()> {
    for city in CITIES {
        ctx.pe(city)?.run(&["edgeplex", "customer", "delete", customer])?;
    }
    for city in CITIES {
        let gone = || Ok(ctx.pid_in_pvm(customer, city, "pvmd").is_err());
        wait::until_true(&format!("{customer}'s VM on {city} ends"), CONVERGE, gone)?;
    }
    Ok(())
}

fn create(ctx: &Ctx<'_>, customer: &str) -> Result<()> {
    for city in CITIES {
        ctx.apply(city, &format!("{customer}.yaml"))?;
    }
    ctx.wait_for_traffic(customer)
}

pub(super) fn withdraw(ctx: &Ctx<'_>) -> Result<Evidence> {
    let mut times = vec![];
    let mut evidence = Evidence::default();
    for customer in CUSTOMERS {
        for city in CITIES {
            let (far, prefix) = (other(city), extra_prefix(city));
            wait_prefix(ctx, customer, far, &prefix, true, CONVERGE)?;
            let started = Instant::now();
            set_extra(ctx, customer, city, false)?;
            let gone = wait_prefix(ctx, customer, far, &prefix, false, Duration::from_secs(1));
            let ms = started.elapsed().as_secs_f64() * 1000.0;
            set_extra(ctx, customer, city, true)?;
            gone?;
            ensure!(ms < 1000.0, "{customer} from {city}: took {ms:.0} ms");
            wait_prefix(ctx, customer, far, &prefix, true, CONVERGE)?;
            times.push(ms);
            evidence = evidence.figure(&format!("{customer}_{city}_ms"), ms.round());
        }
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    evidence.text = format!("4 of 4 gone from the other city's CE, slowest after {worst:.0} ms");
    Ok(evidence)
}

pub(super) fn session_reset(ctx: &Ctx<'_>) -> Result<Evidence> {
    let city = CITIES[0];
    let mut evidence = Evidence::default();
    let mut shown = vec![];
    for customer in CUSTOMERS {
        let bystander = super::site::other_customer(customer);
        let streams = ctx.streams(bystander)?;
        let before = ctx.bgp_resets(customer, city)?.1;
        let started = Instant::now();
        let ce = ctx.ce(customer, city)?;
        if customer == "acme" {
            ce.run(&["birdc", "restart", "edgeplex"])?;
        } else {
            ce.run(&["vtysh", "-c", &format!("clear bgp {}", pe_address(city))])?;
        }
        wait::until_true(&format!("{city} sees {customer}'s session go"), CONVERGE, || Ok(ctx.bgp_resets(customer, city)?.1 > before))?;
        ctx.wait_established(customer, city)?;
        wait_prefix(ctx, customer, other(city), &extra_prefix(city), true, CONVERGE)?;
        wait_prefix(ctx, customer, city, &extra_prefix(other(city)), true, CONVERGE)?;
        let seconds = started.elapsed().as_secs_f64();
        ctx.wait_for_traffic(customer)?;
        let (sent, _) = stop_all(streams)?;
        shown.push(format!("{customer} back in {seconds:.1} s, {bystander} lost 0 of {sent}"));
        evidence = evidence.figure(&format!("{customer}_seconds"), seconds).figure(&format!("{bystander}_sent"), sent);
    }
    evidence.text = shown.join("; ");
    Ok(evidence)
}

pub(super) fn delete_and_create(ctx: &Ctx<'_>) -> Result<Evidence> {
    let (gone, stays) = ("acme", "beta");
    let streams = ctx.streams(stays)?;
    let sessions = CITIES.map(|city| ctx.bgp_resets(stays, city));
    delete(ctx, gone)?;
    for city in CITIES {
        ensure!(!ctx.flows(city)?.is_empty(), "{city} has no rules left at all");
    }
    let dead = ctx.udp(gone, CITIES[0], 50, 5, 64)?;
    ensure!(dead.received == 0, "{gone} still reaches its other city after it was deleted");
    let started = Instant::now();
    create(ctx, gone)?;
    let back = started.elapsed().as_secs_f64();
    let (sent, gap) = stop_all(streams)?;
    for (city, before) in CITIES.iter().zip(sessions) {
        let (before, after) = (before?, ctx.bgp_resets(stays, city)?);
        ensure!(before == after, "{stays}'s session in {city} was {before:?} and is {after:?}");
    }
    Ok(Evidence::new(format!("{gone} back {back:.1} s after apply; {stays} lost 0 of {sent} at 100/s, longest gap {gap:.0} ms"))
        .figure("seconds_to_traffic", back)
        .figure("bystander_sent", sent)
        .figure("bystander_lost", 0))
}
