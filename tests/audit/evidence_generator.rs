//! The random manipulations of [`crate::verify_generator`], against a checkpoint that a witness signed before them: the
//! independent verifier alone refuses each certificate of a changed trail.
//!
//! The attacker owns the database, the outbox and the gateway: computes all hashes and the tree again, and signs it
//! with the log's own key or another one. Only the policy and the witness's key are out of reach. Records after the
//! checkpoint, and what is in no hash, are not detected.

use std::collections::BTreeSet;

use gatepost::audit::record::{AuditRecord, GatewayId};
use gatepost::evidence::key::{SignatureType, SigningKey};
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::Edge;
use gatepost::ops::export_line::{Shown, certificate_line};
use serde_json::{Value, json};

use crate::common::rng::Rng;
use crate::common::verifier::{Parties, edge, verdicts};
use crate::verify_generator::{Store, manipulate};

/// Manipulations of the short form. *Chosen*: a few seconds of work.
const MANIPULATIONS: u64 = 120;

/// 2025-12-31 and 2026-11-29, before and after the range of the certificates.
const TIMES: [u64; 2] = [1_767_139_200, 1_795_910_000];

/// A gateway's records when the witness signed, and the two signed checkpoints.
struct Signed {
    parties: Parties,
    records: Vec<AuditRecord>,
    /// The checkpoint before the range: its edge and note.
    from: (Edge, Note),
    to: Note,
}

/// The first line of a certificate.
fn header(subject: Option<&str>, from: Option<(&Note, &Edge)>, to: &Note) -> String {
    let edge = from.map_or(&[][..], |(_, edge)| edge.hashes());
    let edge: Vec<Value> = edge.iter().map(|hash| json!(hex::encode(hash.0))).collect();
    let header = json!({
        "format": "gatepost.certificate.v1", "subject": subject, "since": "2026-01-01T00:00:00.000000Z",
        "until": "2026-01-02T00:00:00.000000Z", "from": from.map(|(note, _)| note.to_string()), "edge": edge,
        "to": to.to_string(),
    });
    format!("{header}\n")
}

fn of_gateway(store: &Store, gateway: GatewayId) -> Vec<AuditRecord> {
    store.records.iter().filter(|record| record.position.gateway_id == gateway).cloned().collect()
}

impl Signed {
    fn new(store: &Store, gateway: GatewayId) -> Self {
        let parties = Parties::new(&format!("example.com/gatepost/{gateway}"));
        let records = of_gateway(store, gateway);
        let begin = edge(&records[..records.len() / 3]);
        let from = parties.note(&begin, TIMES[0]);
        let to = parties.note(&edge(&records), TIMES[1]);
        Self { parties, records, from: (begin, from), to }
    }

    /// The certificates that an attacker makes of `records`.
    fn certificates(&self, records: &[AuditRecord], rng: &mut Rng) -> Vec<String> {
        let subject = (rng.below(2) == 0).then(|| {
            let call = &records[usize::try_from(rng.below(records.len() as u64)).unwrap()].entry.call;
            call.client_subject.to_string()
        });
        let lines = |first: usize| -> String {
            let line = |(at, record): (usize, &AuditRecord)| {
                let is_theirs = |subject: &String| {
                    let call = &record.entry.call;
                    [Some(&call.client_subject[..]), call.actor_subject.as_deref()].contains(&Some(subject))
                };
                let shown = if subject.as_ref().is_none_or(is_theirs) { Shown::Whole } else { Shown::Who };
                certificate_line(at as u64, record, shown).unwrap()
            };
            records.iter().enumerate().skip(first).map(line).collect()
        };
        let subject = subject.as_deref();
        let mut made = vec![header(subject, None, &self.to) + &lines(0)];
        let first = self.records.len() / 3;
        let (begin, from) = &self.from;
        made.push(header(subject, Some((from, begin)), &self.to) + &lines(first));
        let tree = edge(records);
        let stranger = SigningKey::generate(self.parties.log.verifier().name(), SignatureType::Ed25519).unwrap().0;
        for key in [&self.parties.log, &stranger] {
            made.push(header(subject, None, &self.parties.forged(key, &tree, &self.to)) + &lines(0));
        }
        made
    }
}

#[tokio::test]
async fn no_random_manipulation_of_signed_records_passes_the_independent_verifier() {
    let store = Store::made().await;
    let gateways: BTreeSet<GatewayId> = store.records.iter().map(|record| record.position.gateway_id).collect();
    let signed: Vec<Signed> = gateways.iter().map(|gateway| Signed::new(&store, *gateway)).collect();
    let count = std::env::var("EVIDENCE_MANIPULATIONS").map_or(MANIPULATIONS, |count| count.parse().unwrap());
    let (mut cases, mut expected) = (Vec::new(), Vec::new());
    for seed in 0..count {
        let mut rng = Rng::new(seed);
        let mut changed = store.clone();
        // The trail as it is is proven.
        let did = if seed == 0 { "nothing".to_owned() } else { manipulate(&mut changed, &mut rng) };
        for (gateway, signed) in gateways.iter().zip(&signed) {
            let mut records = of_gateway(&changed, *gateway);
            // What is after the checkpoint is not covered by it.
            records.truncate(signed.records.len());
            let (is_same, first) = (records == signed.records, signed.records.len() / 3);
            if is_same && seed > 3 {
                continue;
            }
            let is_same_after = records.get(first..) == signed.records.get(first..);
            for (kind, certificate) in signed.certificates(&records, &mut rng).into_iter().enumerate() {
                // Of the whole log; of its last two thirds; forged ones, which no witness signed.
                let is_proven = [is_same, is_same_after, false, false][kind];
                if is_same && kind > 1 && seed > 0 {
                    continue;
                }
                expected.push((format!("seed {seed}, {did}, certificate {kind}"), is_proven, is_same && kind == 2));
                cases.push((signed.parties.policy(), certificate));
            }
        }
    }
    let found = verdicts(&cases);
    let (mut proven, mut refused) = (0, BTreeSet::new());
    for ((what, is_proven, is_resigned), said) in expected.iter().zip(&found) {
        // Signed again by the log itself, the tree as it was is the witness's too.
        let is_right = said.starts_with("proven: ") == (*is_proven || *is_resigned);
        assert!(is_right && (said.starts_with("proven: ") || said.starts_with("not proven: ")), "{what}: {said}");
        if *is_proven {
            proven += 1;
        } else {
            refused.insert(said.chars().skip(12).take(16).collect::<String>());
        }
    }
    assert!(proven > 8 && refused.len() > 4, "{proven} proven, refused: {refused:?}");
}
