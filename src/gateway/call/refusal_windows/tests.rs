//! Tests of the windows: what is single, what is counted, and that the sum is right.

use std::net::IpAddr;

use proptest::prelude::*;

use crate::audit::record::{Caller, Status};

use super::*;

const SINGLES: u32 = 5;

fn principal(subject: &str) -> Caller {
    Caller { subject: subject.to_owned(), issuer: Some("i".to_owned()), ..Caller::anonymous() }
}

fn refused<'a>(caller: &'a Caller, addr: &str, status: Status, backend: Option<&'a str>) -> RefusedRequest<'a> {
    let addr: Option<IpAddr> = addr.parse().ok();
    RefusedRequest { caller, addr, status, backend, method: "tools/call", tool: Some("tool"), reason: "no" }
}

/// The number of single records that `count` of these refusals get.
fn singles(windows: &mut RefusalWindows, refused: &RefusedRequest<'_>, count: u32, now: Instant) -> usize {
    (0..count).filter(|_| windows.observe(refused, now) == RefusalDecision::Single).count()
}

fn total(counted: &[CountedRefusals]) -> u64 {
    counted.iter().map(CountedRefusals::count).sum()
}

#[test]
fn the_first_refusals_of_a_window_are_single_and_the_others_counted() {
    let (mut windows, begin, bob) = (RefusalWindows::new(SINGLES), Instant::now(), principal("bob"));
    let denied = refused(&bob, "10.0.0.1", Status::Denied, Some("files"));
    assert_eq!(singles(&mut windows, &denied, 124, begin), 5);
    let moved = refused(&bob, "10.9.9.9", Status::Denied, Some("files"));
    assert_eq!(singles(&mut windows, &moved, 10, begin), 0, "a principal is the same from any address");
    assert_eq!(windows.take_ended(begin + WINDOW.saturating_sub(Duration::from_millis(1))), []);
    let ended = windows.take_ended(begin + WINDOW);
    assert_eq!((ended.len(), total(&ended)), (1, 129));
    assert_eq!((windows.take_last(), windows.principal_windows), (Vec::new(), 0));
}

#[test]
fn nothing_that_a_stranger_chooses_is_in_its_key() {
    let (mut windows, begin, nobody) = (RefusalWindows::new(SINGLES), Instant::now(), Caller::anonymous());
    let mut first = refused(&nobody, "10.0.0.1", Status::Unauthenticated, None);
    assert_eq!(singles(&mut windows, &first, 5, begin), 5);
    (first.method, first.tool, first.reason, first.backend) = ("m2", Some("t2"), "r2", Some("b2"));
    first.addr = "10.0.0.255".parse().ok();
    assert_eq!(singles(&mut windows, &first, 5, begin), 0);
    first.status = Status::Malformed;
    assert_eq!(singles(&mut windows, &first, 10, begin), 5, "another status is another kind");
    // Callers from other networks share the rest of the one bucket.
    let all: usize = (0..100)
        .map(|net| {
            let addr = format!("10.1.{net}.1");
            singles(&mut windows, &refused(&nobody, &addr, Status::Unauthenticated, None), 10, begin)
        })
        .sum();
    assert_eq!(all, 5, "15 for all strangers together");
    assert_eq!(singles(&mut windows, &refused(&principal("bob"), "10.0.0.1", Status::Denied, None), 10, begin), 5);
}

#[test]
fn a_principal_that_varies_its_refusals_gets_three_kinds_of_single_records() {
    let (mut windows, begin, bob) = (RefusalWindows::new(SINGLES), Instant::now(), principal("bob"));
    let backends: Vec<String> = (0..50).map(|at| format!("b{at}")).collect();
    let refused = |backend| refused(&bob, "10.0.0.1", Status::Denied, Some(backend));
    let all: usize = backends.iter().map(|backend| singles(&mut windows, &refused(backend), 10, begin)).sum();
    assert_eq!(all, 15);
    assert_eq!(total(&windows.take_last()), 485);
}

#[test]
fn i6_windows_are_bounded_and_other_refusals_are_counted_by_status() {
    let (mut windows, begin, nobody) = (RefusalWindows::new(SINGLES), Instant::now(), Caller::anonymous());
    let mut observed = 0;
    for net in 0..2 * STRANGER_WINDOWS_MAX {
        for status in [Status::Unauthenticated, Status::Malformed] {
            let addr = format!("2001:db8:0:{net:x}::1");
            windows.observe(&refused(&nobody, &addr, status, None), begin);
            observed += 1;
        }
    }
    assert_eq!((windows.stranger_windows, windows.windows.len()), (STRANGER_WINDOWS_MAX, STRANGER_WINDOWS_MAX + 2));
    // Strangers that use up their windows leave those of principals alone.
    let subjects: Vec<Caller> = (0..=PRINCIPAL_WINDOWS_MAX).map(|at| principal(&at.to_string())).collect();
    let of = |caller| refused(caller, "10.0.0.1", Status::Denied, None);
    assert_eq!(subjects.iter().map(|caller| singles(&mut windows, &of(caller), 1, begin)).sum::<usize>(), 4096);
    let counted = windows.take_ended(begin + WINDOW);
    assert_eq!(total(&counted), observed + 1 - 15, "15 were single");
    assert_eq!((windows.windows.len(), windows.stranger_windows, windows.principal_windows), (0, 0, 0));
    let others = counted.iter().map(CountedRefusals::record).filter(|(call, _)| call.client_addr.is_none());
    let mut others: Vec<_> = others.map(|(call, outcome)| (call.client_subject, outcome.status)).collect();
    others.sort_by_key(|(subject, status)| (subject.clone(), status.as_str()));
    let want = [
        ("anonymous".into(), Status::Malformed),
        ("anonymous".into(), Status::Unauthenticated),
        ("gatepost".into(), Status::Denied),
    ];
    assert_eq!(others, want);
}

#[test]
fn the_record_of_a_window_has_the_count_and_a_principals_first_names() {
    let (mut windows, now) = (RefusalWindows::new(1), Instant::now());
    let (bob, nobody) = (principal("bob"), Caller::anonymous());
    let names: Vec<String> = (0..20).map(|at| format!("tool{at}{}", "x".repeat(100))).collect();
    for name in &names {
        for (caller, backend) in [(&bob, Some("files")), (&nobody, None)] {
            let denied = refused(caller, "10.0.0.1", Status::Denied, backend);
            windows.observe(&RefusedRequest { tool: Some(name), ..denied }, now);
        }
    }
    let records: Vec<_> = windows.take_last().iter().map(CountedRefusals::record).collect();
    let find = |subject: &str| records.iter().find(|(call, _)| call.client_subject == subject).unwrap();
    let args = |call: &crate::audit::record::Call| -> serde_json::Value {
        serde_json::from_str(call.request_args.as_deref().unwrap()).unwrap()
    };
    let (call, outcome) = find("bob");
    let (details, kept) = (args(call), names[1..9].iter().map(|name| &name[..64]).collect::<Vec<_>>());
    assert_eq!((&details["count"], &details["names"]), (&19.into(), &serde_json::json!(kept)));
    assert_eq!((call.method.as_str(), call.backend_name.as_deref()), ("gateway/refusals", Some("files")));
    assert_eq!(outcome.status, Status::Denied);
    assert_eq!(outcome.error_message.as_deref(), Some("19 more requests refused without a record of their own: no"));
    let (call, _) = find("anonymous");
    assert_eq!((call.client_addr.as_deref(), &args(call)["names"]), (Some("10.0.0.0/24"), &serde_json::Value::Null));
}

#[test]
fn nothing_is_counted_after_the_windows_were_taken_for_the_last_time() {
    let (mut windows, now, bob) = (RefusalWindows::new(1), Instant::now(), principal("bob"));
    let denied = refused(&bob, "", Status::Denied, None);
    assert!(windows.count(&denied, now));
    assert_eq!(total(&windows.take_last()), 1);
    assert_eq!(singles(&mut windows, &denied, 5, now), 5, "each must be recorded by itself, or not be answered");
    assert!(!windows.count(&denied, now) && windows.take_last().is_empty());
}

proptest! {
    #[test]
    fn i2_every_refusal_is_single_or_counted_once(
        steps in proptest::collection::vec((0_u64..30_000, 0_usize..4, 0_u8..3, any::<bool>(), any::<bool>()), 0..300),
    ) {
        let callers = [Caller::anonymous(), Caller::anonymous(), principal("ann"), principal("bob")];
        let (mut windows, mut now) = (RefusalWindows::new(SINGLES), Instant::now());
        let (mut recorded, mut taken) = (0, 0);
        for (pause, caller, net, has_room, takes) in &steps {
            now += Duration::from_millis(*pause);
            let (addr, backend) = (format!("10.0.{net}.1"), ["a", "b", "c"][usize::from(*net)]);
            let denied = refused(&callers[*caller], &addr, Status::Denied, Some(backend));
            if windows.observe(&denied, now) == RefusalDecision::Single {
                if *has_room { recorded += 1 } else { prop_assert!(windows.count(&denied, now)) }
            }
            if *takes {
                taken += total(&windows.take_ended(now));
            }
        }
        taken += total(&windows.take_last());
        prop_assert_eq!(recorded + taken, steps.len() as u64);
    }
}
