//! The log of the registrar: its tree is over the owner's decisions, and the command that records one signs it.
//!
//! The registrar is not a process, so that nothing remembers what it signed. Each command computes the tree from the
//! decisions in the database, and compares it with the last stored checkpoint and with what the witnesses signed: it
//! signs only a tree that has all of theirs at its beginning.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::audit::query::{self, LogReading, StoredCheckpoint};
use crate::audit::record::GatewayId;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore, Confirmation};
use crate::audit::sink::postgres::PostgresSink;
use crate::audit::sink::postgres::registrar::{EPOCH, registrar_id};
use crate::audit::tree::Tree;
use crate::cli::output::print_error;
use crate::cli::{database, notary};
use crate::config::{self, Config};
use crate::evidence::key::VerifierKey;
use crate::evidence::note::Note;
use crate::evidence::tree::{Edge, Hash, KnownNodes, ProveError, TreeHead, prove};
use crate::notary::Signer;
use crate::ops::trail::failed;
use crate::witness::client::{Prover, WitnessClient};

/// The longest time that a command takes to sign and to reach witnesses. *Chosen*: a person waits for it, and the next
/// command catches up.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The most attempts to sign while other commands do. *Chosen*: each has a person who runs it.
const ATTEMPTS_MAX: u32 = 3;

/// Signs a checkpoint of the decisions if evidence is configured. The decision is recorded whatever becomes of that: a
/// failure is a line on standard error.
pub(super) async fn sign(config: &Config) {
    let signed = tokio::time::timeout(TIMEOUT, try_sign(config)).await;
    let error = match signed {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => format!("it took longer than {} s", TIMEOUT.as_secs()),
    };
    print_error(&format!(
        "the decision is recorded, but its checkpoint is not signed and confirmed everywhere: {error}. The next command \
         that records a decision tries again"
    ));
}

async fn try_sign(config: &Config) -> anyhow::Result<()> {
    let (Some(signer), Some(options)) = (notary::signer(config)?, database::options(config)) else { return Ok(()) };
    let mut store = PostgresSink::new(&options)?;
    let witnesses = witnesses(config)?;
    let mut attempts = 0;
    let (log, note) = loop {
        let mut connection = database::connect(&options).await?;
        let registrar = registrar_id(&mut connection).await?;
        let mut reading = LogReading::begin(&mut connection, registrar).await.map_err(read_failed)?;
        let log = Log { registrar, tree: reading.tree(EPOCH).await.map_err(read_failed)? };
        let last = reading.last(EPOCH).await.map_err(read_failed)?;
        reading.end().await.map_err(read_failed)?;
        let note = log.note(&signer, &witnesses, last.as_ref()).await?;
        attempts += 1;
        let known = last.map(|last| last.head);
        if store.store_checkpoint(registrar, &log.tree.0, &note, known).await? == Some(log.head()) {
            break (log, note);
        }
        // Another command has recorded and signed a later decision meanwhile.
        ensure!(attempts < ATTEMPTS_MAX, "other commands record and sign decisions at the same time");
    };
    let note = Note::parse(note.as_bytes())?;
    let mut errors = Vec::new();
    for witness in &witnesses {
        if let Err(error) = log.submit(witness, &note, &mut store).await {
            errors.push(format!("{}: {error:#}", witness.0));
        }
    }
    ensure!(errors.is_empty(), "{}", errors.join("; "));
    Ok(())
}

/// The name of a witness, and the connection to it.
type Witness = (String, WitnessClient);

fn witnesses(config: &Config) -> anyhow::Result<Vec<Witness>> {
    let witness = |witness: &config::Witness| {
        let key = VerifierKey::parse(&witness.key).context("evidence.witnesses")?;
        let name = key.name().to_owned();
        let client = WitnessClient::new(&witness.url, vec![key]).with_context(|| format!("the witness {name}"))?;
        Ok((name, client))
    };
    config.evidence.witnesses.iter().map(witness).collect()
}

/// The registrar's decisions as a log.
struct Log {
    registrar: GatewayId,
    /// The tree, and the hashes of its records.
    tree: (Tree, Vec<[u8; 32]>),
}

impl Log {
    fn head(&self) -> TreeHead {
        TreeHead { size: self.tree.0.size(), root: self.tree.0.root() }
    }

    fn nodes(&self) -> KnownNodes {
        KnownNodes::new(Edge::default(), self.tree.1.clone())
    }

    /// Checks that a tree that was signed is the beginning of this one.
    fn check(&self, place: &str, signed: TreeHead) -> anyhow::Result<()> {
        let size = self.head().size;
        let is_beginning = signed.size <= size && prove::root(signed.size, &mut self.nodes()) == Ok(signed.root);
        ensure!(
            is_beginning,
            "{place} has a checkpoint of {} decisions that are not the first ones of the {size} in the database: the \
             database was restored or changed. Replay the journal (gatepost audit decisions replay)",
            signed.size
        );
        Ok(())
    }

    /// The signed checkpoint: `last` if it has all decisions, or else a new one.
    async fn note(
        &self,
        signer: &Signer,
        witnesses: &[Witness],
        last: Option<&StoredCheckpoint>,
    ) -> anyhow::Result<String> {
        if let Some(last) = last {
            self.check("Postgres", last.head)?;
            if last.head == self.head() {
                return Ok(last.note.clone());
            }
        }
        let name = signer.log_name(self.registrar, EPOCH);
        let verifiers = signer.verifiers(&name).context("evidence")?;
        let mut errors = Vec::new();
        for (witness, client) in witnesses {
            match client.last(&name, &verifiers).await {
                Ok(Some((_, checkpoint))) => self.check(witness, checkpoint.head())?,
                Ok(None) => {}
                Err(error) => errors.push(format!("{witness}: {error}")),
            }
        }
        // The database may have been set back, and then only a witness knows what was signed: perhaps only the one that
        // does not answer.
        ensure!(
            errors.is_empty(),
            "not all witnesses told which checkpoint they have, and nothing else remembers what was signed ({})",
            errors.join("; ")
        );
        signer.sign(self.registrar, EPOCH, self.head()).await.context("the decisions cannot be signed")
    }

    /// Has a witness sign, once.
    async fn submit(&self, (name, client): &Witness, note: &Note, store: &mut PostgresSink) -> anyhow::Result<()> {
        let cosigned = client.submit(note, 0, &mut DecisionProver(self)).await?;
        let lines: Vec<_> = cosigned.signatures.iter().map(|line| format!("{line}\n")).collect();
        let (anchor, kind, proof) = (name.clone(), AnchorKind::Witness, lines.concat().into_bytes());
        let confirmation = Confirmation { log: EPOCH, head: self.head(), anchor, kind, proof };
        store.confirm(self.registrar, &confirmation).await?;
        Ok(())
    }
}

/// Makes proofs from the hashes of all decisions.
struct DecisionProver<'a>(&'a Log);

impl Prover for DecisionProver<'_> {
    type Error = ProveError<Infallible>;

    async fn prove(&mut self, old: u64) -> Result<Vec<Hash>, Self::Error> {
        prove::consistency(old, self.0.head().size, &mut self.0.nodes())
    }
}

fn read_failed(error: query::Error) -> anyhow::Error {
    failed("read the decisions", error).into()
}
