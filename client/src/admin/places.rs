//! Calls about places in partitions. Each partition's leader is asked, several partitions in one
//! request; those that have moved are asked again at their new leader.

use std::{collections::HashMap, sync::Arc};

use riverrun_proto::{ids::BrokerId, reason::Reason};

use super::{Admin, about};
use crate::{
    address::Address,
    connection::{OffsetAt, OffsetQuestion, RecordsDeletion},
    error::{Error, ErrorKind, Result},
    metadata::Freshness,
    topic::{Position, Topic, TopicPartition},
};

/// A place in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListedOffset {
    /// The offset; the high watermark where a time was asked for and no record is that late.
    pub offset: i64,
    /// The record's time, where the question was about time.
    pub timestamp_ms: Option<i64>,
}

/// An offset and, where the question was about time, the record's; `None`: no such record.
type Found = Option<(i64, Option<i64>)>;

/// What a partition's leader is asked.
#[derive(Clone, Copy)]
enum Question {
    Offset(OffsetAt),
    DeleteBefore(Option<i64>),
}

/// A partition to ask about, and its place among the answers.
struct Place {
    index: usize,
    topic: Arc<Topic>,
    partition: u32,
    question: Question,
}

impl Admin {
    /// Deletes the records below the given offsets (`None`: below the high watermark). One result
    /// per partition, in order: the log start offset that holds then.
    ///
    /// # Cancel safety
    /// Dropped, it may or may not be carried out.
    ///
    /// # Errors
    /// As a whole if a topic does not exist or no broker answers; else per partition.
    pub async fn delete_records<P: Into<TopicPartition>>(
        &self,
        before: impl IntoIterator<Item = (P, Option<i64>)>,
    ) -> Result<Vec<Result<i64>>> {
        let asked: Vec<(TopicPartition, Question)> = before
            .into_iter()
            .map(|(partition, offset)| (partition.into(), Question::DeleteBefore(offset)))
            .collect();
        let answers = self.at_leaders(&asked).await?;
        let start = |found: Found| {
            found.map(|(offset, _)| offset).ok_or_else(|| Error::protocol("no log start offset"))
        };
        Ok(answers.into_iter().map(|answer| answer.and_then(start)).collect())
    }

    /// Turns places into offsets. One result per partition, in order. Cancel safe.
    ///
    /// [`Position::Offset`] is answered as it is; [`Position::FromEnd`] counts from the high
    /// watermark and stops at the log start offset.
    ///
    /// # Errors
    /// As a whole if a topic does not exist or no broker answers; else per partition.
    pub async fn list_offsets<P: Into<TopicPartition>>(
        &self,
        places: impl IntoIterator<Item = (P, Position)>,
    ) -> Result<Vec<Result<ListedOffset>>> {
        let places: Vec<(TopicPartition, Position)> =
            places.into_iter().map(|(partition, position)| (partition.into(), position)).collect();
        let first = |position: Position| match position {
            Position::Earliest => OffsetAt::Earliest,
            Position::Timestamp(ms) => OffsetAt::Timestamp(ms),
            Position::Offset(_) | Position::Latest | Position::FromEnd(_) => OffsetAt::Latest,
        };
        let asked: Vec<_> =
            places.iter().map(|(at, p)| (at.clone(), Question::Offset(first(*p)))).collect();
        let mut answers = self.at_leaders(&asked).await?;
        // What needs a second look: how far back the log goes, or where it ends.
        let second = |(position, answer): (Position, &Result<Found>)| match (position, answer) {
            (Position::FromEnd(_), Ok(_)) => Some(OffsetAt::Earliest),
            (Position::Timestamp(_), Ok(None)) => Some(OffsetAt::Latest),
            _ => None,
        };
        let (indexes, asked): (Vec<usize>, Vec<_>) = places
            .iter()
            .zip(&answers)
            .enumerate()
            .filter_map(|(index, ((at, position), answer))| {
                let at = (at.clone(), Question::Offset(second((*position, answer))?));
                Some((index, at))
            })
            .unzip();
        for (index, bound) in indexes.into_iter().zip(self.at_leaders(&asked).await?) {
            let answer = std::mem::replace(&mut answers[index], Ok(None));
            answers[index] = match (places[index].1, answer, bound) {
                (Position::FromEnd(n), Ok(Some((end, _))), Ok(Some((start, _)))) => {
                    let n = i64::try_from(n).unwrap_or(i64::MAX);
                    Ok(Some((end.saturating_sub(n).max(start), None)))
                }
                (_, _, bound) => bound,
            };
        }
        let finish = |(position, answer): (Position, Result<Found>)| {
            let (offset, timestamp_ms) = answer?.ok_or_else(|| {
                Error::protocol("the broker knows neither start nor end of the partition")
            })?;
            Ok(match position {
                Position::Offset(offset) => ListedOffset { offset, timestamp_ms: None },
                _ => ListedOffset { offset, timestamp_ms },
            })
        };
        let positions = places.into_iter().map(|(_, position)| position);
        Ok(positions.zip(answers).map(finish).collect())
    }

    /// The record with the greatest timestamp, per partition (KIP-734); `None`: no record at all.
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`Admin::list_offsets`].
    pub async fn max_timestamp_offsets<P: Into<TopicPartition>>(
        &self,
        partitions: impl IntoIterator<Item = P>,
    ) -> Result<Vec<Result<Option<ListedOffset>>>> {
        let question = Question::Offset(OffsetAt::MaxTimestamp);
        let asked: Vec<_> = partitions.into_iter().map(|at| (at.into(), question)).collect();
        let answers = self.at_leaders(&asked).await?;
        let listed = answers.into_iter().map(|answer| {
            Ok(answer?.map(|(offset, timestamp_ms)| ListedOffset { offset, timestamp_ms }))
        });
        Ok(listed.collect())
    }

    /// Asks the leader of each partition, and again while some have moved or are not ready. The
    /// questions are of one kind. Answers are in their order.
    async fn at_leaders(&self, asked: &[(TopicPartition, Question)]) -> Result<Vec<Result<Found>>> {
        let mut answers: Vec<Option<Result<Found>>> = asked.iter().map(|_| None).collect();
        let mut retrying = self.client.retrying(self.timeout, true);
        let mut freshness = Freshness::Cached;
        loop {
            let noticed = self.client.metadata().mark();
            let round = self.ask_round(asked, &mut answers, freshness).await;
            let open = answers.iter().flatten().find_map(|a| a.as_ref().err().filter(|e| again(e)));
            let error = match (round, open) {
                (Err(error), _) => error,
                (Ok(()), Some(error)) => error.clone().retriable(true),
                (Ok(()), None) => break,
            };
            freshness = Freshness::After(noticed);
            if let Err(error) = retrying.after(error).await {
                if answers.iter().any(Option::is_none) {
                    return Err(error);
                }
                // What still fails in the end is each partition's own answer.
                break;
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// One request to each leader of a partition that has no answer.
    async fn ask_round(
        &self,
        asked: &[(TopicPartition, Question)],
        answers: &mut [Option<Result<Found>>],
        freshness: Freshness,
    ) -> Result<()> {
        let by_leader = self.group_by_leader(asked, answers, freshness).await?;
        for (broker, places) in by_leader {
            let results = match self.client.metadata().address(broker) {
                Some(address) => self.ask_leader(&address, &places).await,
                None => Err(Error::connection(format!("the address of {broker:?} is not known"))),
            };
            match results {
                Ok(results) => {
                    for (place, result) in places.iter().zip(results) {
                        answers[place.index] = Some(result);
                    }
                }
                Err(error) => {
                    for place in &places {
                        answers[place.index] = Some(Err(error.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    async fn ask_leader(&self, address: &Address, places: &[Place]) -> Result<Vec<Result<Found>>> {
        let connections = self.client.connections();
        let mut questions = Vec::new();
        let mut deletions = Vec::new();
        for Place { topic, partition, question, .. } in places {
            let (topic, partition) = (topic.id, *partition);
            match *question {
                Question::Offset(at) => questions.push(OffsetQuestion { topic, partition, at }),
                Question::DeleteBefore(before) => {
                    deletions.push(RecordsDeletion { topic, partition, before });
                }
            }
        }
        if deletions.is_empty() {
            return connections.list_offsets(address, &questions).await;
        }
        let timeout = self.client.config().request_timeout;
        let deleted = connections.delete_records(address, &deletions, timeout).await?;
        Ok(deleted.into_iter().map(|start| start.map(|offset| Some((offset, None)))).collect())
    }

    /// The partitions without an answer, by leader.
    async fn group_by_leader(
        &self,
        asked: &[(TopicPartition, Question)],
        answers: &mut [Option<Result<Found>>],
        freshness: Freshness,
    ) -> Result<HashMap<BrokerId, Vec<Place>>> {
        let mut by_leader: HashMap<BrokerId, Vec<Place>> = HashMap::new();
        for (index, (at, question)) in asked.iter().enumerate() {
            if answers[index].as_ref().is_some_and(|answer| !answer.as_ref().is_err_and(again)) {
                continue;
            }
            let topic = self.client.metadata().topic(&at.topic, freshness, false).await;
            let topic = topic.map_err(|error| about(error, &at.topic))?;
            let missing = match topic.partitions.get(at.partition as usize) {
                Some(partition) => match partition.leader {
                    Some(leader) => {
                        let (partition, question) = (at.partition, *question);
                        let place = Place { index, topic, partition, question };
                        by_leader.entry(leader).or_default().push(place);
                        continue;
                    }
                    None => Error::from_reason(
                        Reason::LeaderNotAvailable,
                        format!("{at} has no leader at the moment"),
                    )
                    .retriable(true),
                },
                None => Error::from_reason(
                    Reason::UnknownTopicOrPartition,
                    format!("{at} does not exist; it has {} partitions", topic.partitions.len()),
                ),
            };
            answers[index] = Some(Err(missing));
        }
        Ok(by_leader)
    }
}

/// The partition is to be asked again, perhaps elsewhere.
fn again(error: &Error) -> bool {
    error.is_retriable() || error.kind() == ErrorKind::NotLeader
}
