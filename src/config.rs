//! The configuration: one TOML file and `GATEPOST_*` variables that override it, validated once.
//!
//! [`Config::load`] reads the file, applies the environment, and checks every key against [`SETTINGS`] and related keys
//! against each other. It reports all errors, each with its key and line, and never shows a secret's value. The
//! configuration that it returns is valid: no other module checks a setting again.
//!
//! The files that the configuration names are opened by the modules that use them.

mod accepted;
mod auth;
mod backend;
mod backend_oauth;
mod check;
mod check_evidence;
mod check_sign_in;
mod deserialize;
mod difference;
mod error;
mod evidence;
mod expression;
mod load;
mod name;
mod network;
mod ops;
mod path;
mod pins;
mod policy;
mod public_url;
mod reference;
mod role;
mod secrets;
mod sections;
mod settings_table;
mod value_type;

pub use auth::{Auth, Issuer, Key, Tls};
pub use backend::Backend;
pub use backend_oauth::{BackendOAuth, ClientAuth};
pub use difference::{Difference, Settings};
pub use error::{ConfigError, Origin};
pub use evidence::{AnchorCommand, Bucket, Evidence, OnMissing, TimeStamps, Witness};
pub use expression::anchored;
pub use load::Loaded;
pub use name::check_alias;
pub use network::Network;
pub use ops::{Ops, SignIn};
pub use pins::{Pin, Pins, read_pins, write_pins};
pub use public_url::PublicUrl;
pub use reference::reference;
pub use role::{Condition, ConditionFrom, Role, Scalar};
pub use sections::{
    Alarms, Audit, Config, ForwardedHeader, Level, Limits, Log, LogFormat, OnFailure, Postgres, RecordAnswers, Server,
    Telemetry,
};
pub use settings_table::{Fallback, SETTINGS, SettingSpec};
pub use value_type::{ValueType, is_loopback, is_protected, issuer_url};
