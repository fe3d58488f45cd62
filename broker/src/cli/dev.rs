//! `riverrun dev`: a whole broker with nothing to set up, or several of them.

use std::{env, path::PathBuf};

use clap::Args;

use super::{
    dev_cluster::{BROKERS_MAX, Cluster, FIRST_PORT, FIRST_PORT_MAX},
    error::{Failure, Result},
    output, serve,
    session::{self, Session},
};
use crate::{config::Config, server::Server};

/// Run a broker for development: data in ./riverrun-data, topics made when first written to
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  riverrun dev
  riverrun dev --brokers 3                       a cluster: kill any of them
  riverrun dev --data-dir /tmp/try --set topic.retention.ms=1h
  riverrun dev --set network.grpc.listen=127.0.0.1:0 --set network.http.listen=127.0.0.1:0

The data stays when it is stopped; remove the directory to begin anew.")]
pub(crate) struct DevArgs {
    /// Where the data is
    #[arg(long, value_name = "DIR", default_value = "riverrun-data")]
    data_dir: PathBuf,

    /// A key of the broker's configuration; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Port of the first of several brokers; the others' are ten apart
    #[arg(long, value_name = "PORT", default_value_t = FIRST_PORT)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(FIRST_PORT_MAX)))]
    first_port: u16,
}

pub(crate) fn run(args: &DevArgs, session: &Session) -> Result<()> {
    let Some(data_dir) = args.data_dir.to_str() else {
        return Err(Failure::usage("--data-dir is not UTF-8"));
    };
    if let Some(brokers) = several(session.brokers())? {
        let (first_port, set) = (args.first_port, &args.set);
        return Cluster { brokers, first_port, data_dir, set }.run(session);
    }
    // Whoever said something about these keys, in the environment or in a flag, wins over `dev`.
    let mut flags = vec![format!("broker.data.dir={data_dir}")];
    for (key, variable, value) in [
        ("broker.auto.create.topics.enable", "RIVERRUN_BROKER_AUTO_CREATE_TOPICS_ENABLE", "true"),
        ("telemetry.log.filter", "RIVERRUN_LOG", "warn"),
        ("telemetry.log.format", "RIVERRUN_TELEMETRY_LOG_FORMAT", "human"),
        // Alone: nobody needs to find it there.
        ("network.internal.listen", "RIVERRUN_NETWORK_INTERNAL_LISTEN", "127.0.0.1:0"),
    ] {
        if env::var_os(variable).is_none() {
            flags.push(format!("{key}={value}"));
        }
    }
    flags.extend(args.set.iter().cloned());
    let config = Config::load(None, env::vars(), &flags).map_err(serve::invalid)?;
    serve::init_logging(&config)?;
    let data_dir = config.broker.data_dir.clone();
    serve::run_until_told(config, session.clock(), |server| {
        session.say(welcome(server, &data_dir.display().to_string(), session));
    })?;
    session.say("stopped; the data stays");
    Ok(())
}

/// Other commands are told by `--brokers` whom to ask; this one, how many to start.
fn several(brokers: &[String]) -> Result<Option<u16>> {
    let Some(number) = brokers.first().and_then(|first| first.parse::<u64>().ok()) else {
        return Ok(None);
    };
    match u16::try_from(number) {
        Ok(1) => Ok(None),
        Ok(number) if (2..=BROKERS_MAX).contains(&number) => Ok(Some(number)),
        _ => Err(Failure::usage(format!("--brokers {number}: 1 to {BROKERS_MAX} can be started"))),
    }
}

fn welcome(server: &Server, data_dir: &str, session: &Session) -> String {
    let took = session::monotonic().duration_since(session.start());
    let grpc = server.grpc_address();
    // The default address needs no flag.
    let brokers = match grpc.port() {
        crate::config::GRPC_PORT => String::new(),
        _ => format!(" -b {grpc}"),
    };
    format!(
        "riverrun {} serves after {}
  gRPC     {grpc}
  metrics  http://{}/metrics
  data     {data_dir} (topics are made when first written to)

Try, in another terminal:
  echo hello | riverrun produce greetings{brokers}
  riverrun consume greetings{brokers}
  riverrun topic describe greetings{brokers}

Ctrl-C stops it.",
        env!("CARGO_PKG_VERSION"),
        output::duration(took),
        server.http_address(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_brokers_is_started_and_addresses_are_none_of_ours() {
        let asked = |brokers: &str| several(&[brokers.to_owned()]).ok();
        assert_eq!(asked("127.0.0.1:9190"), Some(None));
        assert_eq!(asked("1"), Some(None));
        assert_eq!(asked("3"), Some(Some(3)));
        for wrong in ["0", "10", "99999999"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
    }
}
