//! The walls around a stdio backend: what it may read and write, and how it is started behind them.
//!
//! A backend is the least trusted part, and a child process has the gateway's user. Without walls it could read the
//! gateway's configuration, keys and memory, and write its outbox. The gateway therefore starts a backend as
//! `gatepost run-backend`, which restricts itself with Landlock, irrevocably and for all its descendants, and then
//! becomes the backend's program ([`exec_backend`]). [`Launcher`] is the gateway's side.
//!
//! Landlock only grants: what is below a granted directory is granted. A directory that contains one of the gateway's
//! [`OwnFiles`] is therefore granted entry by entry, as it is when the backend starts ([`plan`]).

mod enter;
mod environment;
mod kernel;
mod landlock;
mod launcher;
mod own_files;
mod plan;
mod report;
mod scratch;
mod user;

pub use enter::{BackendStart, exec_backend};
pub use environment::environment_error;
pub use launcher::{BackendLauncher, Launcher};
pub use own_files::{OwnFiles, postgres_files};
pub use plan::{Granted, Plan, WriteRoot};
pub use report::{START_ERROR_CODE, StartReport};
