//! One module per verb: sends requests to netd and prints the answers.

mod address;
mod convergence;
mod everywhere;
mod exec;
mod logs;
mod membership;
mod network;
mod node;
mod peers;
mod reach;
mod service;
mod task;
mod traffic;
mod update;
mod verify;

pub use exec::exec;
pub use membership::{debug, init, join, leave, status, token};
pub use network::network;
pub use node::node;
pub use service::service;
pub use task::task;
pub use verify::check_ledger;

use anyhow::Result;

/// Does the same for several objects, goes on after errors, and says whether all went well.
async fn each<F: Future<Output = Result<()>>>(
    names: &[String],
    act: impl Fn(String) -> F,
) -> Result<u8> {
    let mut code = 0;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            eprintln!("Error: {error}");
            code = 1;
        }
    }
    Ok(code)
}

/// Asks for several objects one by one; those that are there, and whether all are. Errors: none is.
async fn collect<T, F: Future<Output = Result<Vec<T>>>>(
    names: &[String],
    ask: impl Fn(String) -> F,
) -> Result<(Vec<T>, u8)> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match ask(name.clone()).await {
            Ok(items) => found.push(items),
            Err(error) => missing.push(error),
        }
    }
    let last = if found.is_empty() {
        missing.pop()
    } else {
        None
    };
    missing.iter().for_each(|error| eprintln!("Error: {error}"));
    let code = u8::from(!missing.is_empty());
    last.map_or(Ok((found.into_iter().flatten().collect(), code)), Err)
}

/// Whether the daemon said that there is no such object.
fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<model::Refusal>()
        .is_some_and(|refusal| refusal.kind == model::Kind::NotFound)
}
