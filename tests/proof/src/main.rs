//! scratch
use riverrun_proof::{cluster::*, metadata, model::*, replica};
use stateright::{Checker, Model};
use std::time::Instant;
fn env(k: &str, d: u64) -> u64 {
    std::env::var(k).ok().and_then(|x| x.parse().ok()).unwrap_or(d)
}
fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let av: Vec<String> = std::env::args().collect();
    let name = av.get(2).cloned().unwrap_or_default();
    let rm =
        replica::Mutation::ALL.into_iter().find(|m| format!("{m:?}").eq_ignore_ascii_case(&name));
    let cm =
        metadata::Mutation::ALL.into_iter().find(|m| format!("{m:?}").eq_ignore_ascii_case(&name));
    let s = Search {
        setup: Setup {
            replica_rules: rm,
            controller_rules: cm,
            durability: if env("DISK", 0) == 1 {
                replica::Durability::Disk
            } else {
                replica::Durability::Memory
            },
            min_isr: env("MIN", 2) as u32,
            replicas: env("REP", 3) as usize,
        },
        bounds: Bounds {
            writes: env("V", 2) as u8,
            versions: env("PE", 5) as usize,
            messages: env("NET", 1) as usize,
            restarts: env("RST", 1) as u8,
            orders: env("CTL", 2) as u8,
            lapses: env("LAP", 1) as u8,
            sessions: env("SES", 6),
            proofs: env("PROOFS", 0) == 1,
            unclean: env("UNCLEAN", 0) == 1,
            reassignments: env("REAS", 0) == 1,
            copies: env("COPIES", 1) == 1,
        },
    };
    let t = Instant::now();
    match av[1].as_str() {
        "bfs" => {
            let d = env("D", 0) as usize;
            let mut c = s.checker().threads(2);
            if d > 0 {
                c = c.target_max_depth(d);
            }
            if env("T", 0) > 0 {
                c = c.timeout(std::time::Duration::from_secs(env("T", 0)));
            }
            let r = c.spawn_bfs().join();
            println!(
                "bfs {name} {rm:?}{cm:?} states={} unique={} depth={} {:.1}s done={}",
                r.state_count(),
                r.unique_state_count(),
                r.max_depth(),
                t.elapsed().as_secs_f32(),
                r.is_done()
            );
            for (n, p) in r.discoveries() {
                println!(
                    "  {n}: {} steps: {:?}",
                    p.clone().into_actions().len(),
                    p.last_state().violation()
                );
                if n == "safe" {
                    for a in p.into_actions() {
                        println!("      {a:?}");
                    }
                }
            }
        }
        _ => {
            let w = s.walk(1..=env("SEEDS", 100_000), env("LEN", 60) as usize);
            match w.found {
                None => println!(
                    "walk {name} none in {} {:.1}s",
                    w.transitions,
                    t.elapsed().as_secs_f32()
                ),
                Some((law, seed, trace)) => {
                    println!(
                        "walk {name} {rm:?}{cm:?} '{law}' seed {seed} after {} len {} {:.1}s",
                        w.transitions,
                        trace.len(),
                        t.elapsed().as_secs_f32()
                    );
                    if env("TRACE", 0) == 1 {
                        for a in trace {
                            println!("    {a:?}");
                        }
                    }
                }
            }
        }
    }
}
