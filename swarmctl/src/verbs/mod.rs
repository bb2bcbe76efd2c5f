//! What each verb asks of the daemon and prints of its answer.

mod address;
mod convergence;
mod exec;
mod logs;
mod membership;
mod network;
mod node;
mod service;
mod task;

pub use exec::exec;
pub use membership::{debug, init, join, leave, status, token};
pub use network::network;
pub use node::node;
pub use service::service;

use anyhow::Result;

/// Does the same for several objects, goes on after errors, and says whether all went well.
async fn each<F: Future<Output = Result<()>>>(names: &[String], act: impl Fn(String) -> F) -> Result<u8> {
    let mut code = 0;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            eprintln!("Error: {error}");
            code = 1;
        }
    }
    Ok(code)
}

/// Asks for several objects one by one; those that are there, and whether all are.
async fn collect<T, F: Future<Output = Result<Vec<T>>>>(names: &[String], ask: impl Fn(String) -> F) -> (Vec<T>, u8) {
    let (mut found, mut code) = (Vec::new(), 0);
    for name in names {
        match ask(name.clone()).await {
            Ok(mut items) => found.append(&mut items),
            Err(error) => {
                eprintln!("Error: {error}");
                code = 1;
            }
        }
    }
    (found, code)
}

/// Whether the daemon said that there is no such object.
fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<model::Refusal>().is_some_and(|refusal| refusal.kind == model::Kind::NotFound)
}
