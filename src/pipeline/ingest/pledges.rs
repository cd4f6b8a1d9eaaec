//! Storage commitment, the part that is asked (PS3.4 J): which of these instances do you keep?
//!
//! Comes in: the data set of an N-ACTION. Goes out: a question that is durable before the N-ACTION is answered with
//! success, and later the report on it, which says what is on disk at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::tags;
use dicom_encoding::transfer_syntax::TransferSyntaxIndex;
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;
use tokio::sync::mpsc;

use super::questions::{Pledge, PledgeError, QuestionFolder, Questions, Reference};
use super::shared::Shared;
use super::spool::Spool;
use super::whereabouts::{Finder, Found};
use crate::vocabulary::causes::with_causes;
use crate::vocabulary::dicom::attribute::Attributes;
use crate::vocabulary::dicom::dimse::ActionStatus;
use crate::vocabulary::dicom::instance::{InstanceLimits, parse_data_set};
use crate::vocabulary::dicom::{AeTitle, SeriesInstanceUid, TransactionUid, TransferSyntaxUid};

/// The longest question, bytes: a reference takes some 150.
const LONGEST_QUESTION: usize = 2_000_000;

/// References in one question.
const MOST_REFERENCES: usize = 10_000;

/// Questions whose report has not been taken yet, of all and of one AE title.
const MOST_WAITING: usize = 1_000;
const MOST_WAITING_OF_ONE: usize = 200;

/// Hints on their way to the gathering; more are dropped, and the series wait out their quiet time.
const HINTS: usize = 64;

/// A question about fewer instances of a series says nothing about its end: many scanners ask for each image.
const FEWEST_OF_A_SERIES: u32 = 4;

/// Failure Reason (0008,1197): the object is not here.
const NO_SUCH_OBJECT: u16 = 0x0112;
/// Failure Reason: it is here as an instance of another class.
const CLASS_INSTANCE_CONFLICT: u16 = 0x0119;
/// Failure Reason: the disk or the bucket does not say.
const PROCESSING_FAILURE: u16 = 0x0110;

/// Whether a question is kept now, or was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    New,
    Before,
}

/// What is kept and what is not (PS3.4 J.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitmentReport {
    transaction_uid: TransactionUid,
    kept: Vec<Reference>,
    /// With Failure Reason (0008,1197).
    failed: Vec<(Reference, u16)>,
}

/// Somebody asked for the commitment of all the instances that he sent of a series, and they are all here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesHint {
    /// Which.
    pub series_instance_uid: SeriesInstanceUid,
    /// How many he asked for.
    pub n_instances: u32,
}

/// The questions whose report has not been taken yet.
#[derive(Debug)]
pub struct Pledges {
    questions: Arc<dyn Questions>,
    spool: Arc<Spool>,
    /// Where the instances lie in a bucket.
    finder: Option<Finder>,
    /// Who gets the report over an association of ours; all others get it over the one that asked.
    called_back: Mutex<BTreeSet<AeTitle>>,
    /// One question is read and written at a time, so that their memory is bounded.
    taking: Mutex<()>,
    hints: mpsc::Sender<SeriesHint>,
}

impl Pledges {
    /// Of this node: opens or makes their folder, and takes over what an earlier process had not reported.
    ///
    /// # Errors
    /// [`PledgeError`] where the folder cannot be used.
    pub fn open(
        data_folder: &Path,
        spool: Arc<Spool>,
    ) -> Result<(Self, mpsc::Receiver<SeriesHint>), PledgeError> {
        Ok(Self::over(Arc::new(QuestionFolder::open(data_folder)?), spool, None))
    }

    /// Of several nodes, that share questions and a bucket.
    #[must_use]
    pub fn shared(
        questions: Arc<dyn Questions>,
        spool: Arc<Spool>,
        finder: Finder,
    ) -> (Self, mpsc::Receiver<SeriesHint>) {
        Self::over(questions, spool, Some(finder))
    }

    fn over(
        questions: Arc<dyn Questions>,
        spool: Arc<Spool>,
        finder: Option<Finder>,
    ) -> (Self, mpsc::Receiver<SeriesHint>) {
        let (hints, hinted) = mpsc::channel(HINTS);
        let (called_back, taking) = (Mutex::default(), Mutex::default());
        (Self { questions, spool, finder, called_back, taking, hints }, hinted)
    }

    /// Keeps a question, durably, or says why not. The same question again changes nothing. Blocks.
    pub(super) fn take(
        &self,
        calling: &AeTitle,
        data_set: Vec<u8>,
        transfer_syntax: &TransferSyntaxUid,
    ) -> Result<TransactionUid, ActionStatus> {
        let _one_at_a_time = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        if data_set.len() > LONGEST_QUESTION {
            return Err(ActionStatus::ResourceLimitation);
        }
        let Some((transaction_uid, references)) = parse(data_set, transfer_syntax) else {
            return Err(ActionStatus::InvalidArgument);
        };
        if references.len() > MOST_REFERENCES {
            return Err(ActionStatus::ResourceLimitation);
        }
        let asked_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let pledge = Pledge {
            transaction_uid: transaction_uid.clone(),
            calling_ae_title: calling.clone(),
            asked_ms: i64::try_from(asked_ms).unwrap_or(i64::MAX),
            references,
        };
        let kept = self.keep(&pledge).unwrap_or_else(|error| {
            tracing::error!(%calling, error = with_causes(&error), "a question about storage commitment cannot be kept");
            Err(ActionStatus::ProcessingFailure)
        });
        if kept? == Kept::New && self.finder.is_none() {
            self.hint(pledge.references.iter().map(|r| self.spool.series_of(&r.instance)));
        }
        Ok(transaction_uid)
    }

    fn keep(&self, pledge: &Pledge) -> Result<Result<Kept, ActionStatus>, PledgeError> {
        let Pledge { transaction_uid, calling_ae_title: calling, references, .. } = pledge;
        let same_or_not = |known: Pledge| {
            let is_same = known.calling_ae_title == *calling && known.references == *references;
            if is_same { Ok(Kept::Before) } else { Err(ActionStatus::DuplicateTransaction) }
        };
        if let Some(known) = self.questions.read(transaction_uid)? {
            return Ok(same_or_not(known));
        }
        let (n_waiting, n_of_one) = self.questions.count(calling)?;
        if n_waiting >= MOST_WAITING || n_of_one >= MOST_WAITING_OF_ONE {
            return Ok(Err(ActionStatus::ResourceLimitation));
        }
        if self.questions.keep(pledge)? {
            return Ok(Ok(Kept::New));
        }
        // Another node was faster.
        Ok(self.questions.read(transaction_uid)?.map_or(Err(ActionStatus::DuplicateTransaction), same_or_not))
    }

    /// Tells the gathering which series are whole by a question: all that it asks for is here.
    fn hint(&self, of_references: impl Iterator<Item = Option<SeriesInstanceUid>>) {
        let mut n_instances: BTreeMap<SeriesInstanceUid, u32> = BTreeMap::new();
        for series in of_references {
            let Some(series) = series else { return };
            *n_instances.entry(series).or_default() += 1;
        }
        n_instances.retain(|_, n| *n >= FEWEST_OF_A_SERIES);
        for (series_instance_uid, n_instances) in n_instances {
            if self.hints.try_send(SeriesHint { series_instance_uid, n_instances }).is_err() {
                tracing::debug!("a hint that a series is whole was dropped");
            }
        }
    }

    /// Where the questions lie.
    #[must_use]
    pub fn questions(&self) -> Arc<dyn Questions> {
        Arc::clone(&self.questions)
    }

    /// The report on a question: what is durable now. Blocks.
    ///
    /// # Errors
    /// [`PledgeError`] where the question cannot be read any more, or nobody says what is there.
    pub fn report(&self, transaction_uid: &TransactionUid) -> Result<CommitmentReport, PledgeError> {
        let pledge = self.questions.read(transaction_uid)?.ok_or(PledgeError::Gone)?;
        let outcomes = match (&self.finder, &self.spool.shared) {
            (Some(finder), Some(shared)) => self.outcomes_in(shared, finder, &pledge)?,
            _ => pledge.references.iter().map(|reference| self.outcome(reference)).collect(),
        };
        let (mut kept, mut failed) = (Vec::new(), Vec::new());
        for (reference, outcome) in pledge.references.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => kept.push(reference),
                Err(reason) => failed.push((reference, reason)),
            }
        }
        Ok(CommitmentReport { transaction_uid: transaction_uid.clone(), kept, failed })
    }

    /// Of an instance on disk: kept, or Failure Reason.
    fn outcome(&self, reference: &Reference) -> Result<(), u16> {
        match self.spool.class_of(&reference.instance) {
            Ok(Some(class)) if class == reference.class => Ok(()),
            Ok(Some(_other)) => Err(CLASS_INSTANCE_CONFLICT),
            Ok(None) => Err(NO_SUCH_OBJECT),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "an instance cannot be committed");
                Err(PROCESSING_FAILURE)
            }
        }
    }

    /// The same of instances in the bucket. The gathering is told here, since only now it is known where they are.
    fn outcomes_in(
        &self,
        shared: &Shared,
        finder: &Finder,
        pledge: &Pledge,
    ) -> Result<Vec<Result<(), u16>>, PledgeError> {
        let instances = pledge.references.iter().map(|reference| reference.instance.clone()).collect();
        let Found { places, is_all } = shared.find(finder, &instances)?;
        let outcome = |reference: &Reference| match places.get(&reference.instance) {
            Some(places) if places.iter().any(|(_, class)| class.as_ref() == Some(&reference.class)) => {
                Ok(())
            }
            Some(places) if places.iter().any(|(_, class)| class.is_some()) => Err(CLASS_INSTANCE_CONFLICT),
            None if is_all => Err(NO_SUCH_OBJECT),
            _ => Err(PROCESSING_FAILURE),
        };
        let series =
            |reference: &Reference| places.get(&reference.instance)?.first().map(|(uid, _)| uid.clone());
        self.hint(pledge.references.iter().map(series));
        Ok(pledge.references.iter().map(outcome).collect())
    }

    /// The report was taken, or is given up: the question is forgotten. Blocks.
    pub fn forget(&self, transaction_uid: &TransactionUid) {
        if let Err(error) = self.questions.forget(transaction_uid) {
            // It is reported once more, which does no harm.
            tracing::warn!(error = with_causes(&error), "a reported storage commitment cannot be forgotten");
        }
    }

    /// These get the report over an association of ours; all others get it over the one that asked.
    pub fn call_back(&self, titles: BTreeSet<AeTitle>) {
        *self.called_back.lock().unwrap_or_else(PoisonError::into_inner) = titles;
    }

    /// Whether the report to this peer goes over an association of ours.
    pub(super) fn is_called_back(&self, calling: &AeTitle) -> bool {
        self.called_back.lock().unwrap_or_else(PoisonError::into_inner).contains(calling)
    }
}

impl CommitmentReport {
    /// Event Type ID: 1 where all is kept, 2 where something is not (PS3.4 J.3.3).
    #[must_use]
    pub fn event_type(&self) -> u16 {
        if self.failed.is_empty() { 1 } else { 2 }
    }

    /// How many instances are kept, and how many not.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.kept.len(), self.failed.len())
    }

    /// The data set of N-EVENT-REPORT; `None` for a transfer syntax that is not in the registry.
    #[must_use]
    pub fn encode(&self, transfer_syntax: &TransferSyntaxUid) -> Option<Vec<u8>> {
        let uid = |tag, value: &str| DataElement::new(tag, VR::UI, PrimitiveValue::from(value));
        let item = |reference: &Reference| {
            InMemDicomObject::from_element_iter([
                uid(tags::REFERENCED_SOP_CLASS_UID, reference.class.as_str()),
                uid(tags::REFERENCED_SOP_INSTANCE_UID, reference.instance.as_str()),
            ])
        };
        let mut object = InMemDicomObject::new_empty();
        object.put(uid(tags::TRANSACTION_UID, self.transaction_uid.as_str()));
        if !self.kept.is_empty() {
            let items: Vec<_> = self.kept.iter().map(item).collect();
            let kept = DataSetSequence::from(items);
            object.put(DataElement::new(tags::REFERENCED_SOP_SEQUENCE, VR::SQ, kept));
        }
        if !self.failed.is_empty() {
            let failed = self.failed.iter().map(|(reference, reason)| {
                let mut item = item(reference);
                let reason = PrimitiveValue::from(*reason);
                item.put(DataElement::new(tags::FAILURE_REASON, VR::US, reason));
                item
            });
            let failed = DataSetSequence::from(failed.collect::<Vec<_>>());
            object.put(DataElement::new(tags::FAILED_SOP_SEQUENCE, VR::SQ, failed));
        }
        let into = TransferSyntaxRegistry.get(transfer_syntax.as_str())?;
        let mut bytes = Vec::new();
        object.write_dataset_with_ts(&mut bytes, into).ok()?;
        Some(bytes)
    }
}

/// The data set of N-ACTION (PS3.4 J.3.2.1.1); `None` for what is none.
fn parse(data_set: Vec<u8>, transfer_syntax: &TransferSyntaxUid) -> Option<(TransactionUid, Vec<Reference>)> {
    let limits = InstanceLimits { max_bytes: LONGEST_QUESTION, ..InstanceLimits::default() };
    let instance = parse_data_set(data_set, transfer_syntax.clone(), limits).ok()?;
    let object = instance.data_set().ok()?;
    let top = Attributes::new(&object, "question about storage commitment");
    let of = |item: &Attributes<'_>| {
        let class = item.optional_text(tags::REFERENCED_SOP_CLASS_UID)?.parse().ok()?;
        let instance = item.optional_text(tags::REFERENCED_SOP_INSTANCE_UID)?.parse().ok()?;
        Some(Reference { class, instance })
    };
    let references = top.items(tags::REFERENCED_SOP_SEQUENCE).ok()?.iter().map(of).collect::<Option<_>>()?;
    Some((top.optional_text(tags::TRANSACTION_UID)?.parse().ok()?, references))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::ingest::commitment::Report;
    use crate::pipeline::ingest::questions::Waiting;
    use crate::pipeline::ingest::spool::{Incoming, SpoolLimits};

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const IMPLICIT: &str = "1.2.840.10008.1.2";

    fn syntax() -> TransferSyntaxUid {
        IMPLICIT.parse().unwrap()
    }

    fn uid(tag: dicom_core::Tag, value: &str) -> DataElement<InMemDicomObject> {
        DataElement::new(tag, VR::UI, PrimitiveValue::from(value))
    }

    fn written(object: &InMemDicomObject) -> Vec<u8> {
        let mut bytes = Vec::new();
        object.write_dataset_with_ts(&mut bytes, TransferSyntaxRegistry.get(IMPLICIT).unwrap()).unwrap();
        bytes
    }

    fn question(transaction: &str, references: &[(&str, &str)]) -> Vec<u8> {
        let items = references.iter().map(|(class, instance)| {
            InMemDicomObject::from_element_iter([
                uid(tags::REFERENCED_SOP_CLASS_UID, class),
                uid(tags::REFERENCED_SOP_INSTANCE_UID, instance),
            ])
        });
        let items = DataSetSequence::from(items.collect::<Vec<_>>());
        written(&InMemDicomObject::from_element_iter([
            uid(tags::TRANSACTION_UID, transaction),
            DataElement::new(tags::REFERENCED_SOP_SEQUENCE, VR::SQ, items),
        ]))
    }

    struct Here {
        folder: tempfile::TempDir,
        questions: Arc<QuestionFolder>,
        pledges: Pledges,
        hinted: mpsc::Receiver<SeriesHint>,
    }

    /// A data folder with these instances, each in a series.
    fn here(instances: &[(&str, &str)]) -> Here {
        let folder = tempfile::tempdir().unwrap();
        let limits = SpoolLimits { min_free_mb: 0, new_series_free_mb: 0, max_inflated_bytes: 1 << 20 };
        let (spool, _) = Spool::open(folder.path(), limits).unwrap();
        for (series, instance) in instances {
            let data_set = written(&InMemDicomObject::from_element_iter([
                uid(tags::SOP_CLASS_UID, CT),
                uid(tags::SOP_INSTANCE_UID, instance),
                uid(tags::STUDY_INSTANCE_UID, "1.2.777"),
                uid(tags::SERIES_INSTANCE_UID, series),
            ]));
            let incoming = Incoming {
                sop_class_uid: &CT.parse().unwrap(),
                sop_instance_uid: &instance.parse().unwrap(),
                transfer_syntax_uid: &syntax(),
                calling_ae_title: &"CT1".parse().unwrap(),
                data_set: &data_set,
            };
            spool.store(&incoming).unwrap();
        }
        let questions = Arc::new(QuestionFolder::open(folder.path()).unwrap());
        let shown: Arc<dyn Questions> = Arc::<QuestionFolder>::clone(&questions);
        let (pledges, hinted) = Pledges::over(shown, Arc::new(spool), None);
        Here { folder, questions, pledges, hinted }
    }

    impl Here {
        fn ask(&self, transaction: &str, references: &[(&str, &str)]) -> Result<(), ActionStatus> {
            let bytes = question(transaction, references);
            self.pledges.take(&"CT1".parse().unwrap(), bytes, &syntax()).map(drop)
        }

        fn report(&self, transaction: &str) -> (u16, Report) {
            let report = self.pledges.report(&transaction.parse().unwrap()).unwrap();
            let bytes = report.encode(&syntax()).unwrap();
            (report.event_type(), Report::parse(&bytes, &syntax()).unwrap())
        }
    }

    #[test]
    fn a_report_says_of_each_instance_whether_it_is_here_and_why_not() {
        let here = here(&[("1.7", "1.7.1"), ("1.7", "1.7.2")]);
        here.ask("1.2.1", &[(CT, "1.7.1"), (CT, "1.7.2")]).unwrap();
        let (event_type, all) = here.report("1.2.1");
        assert_eq!((event_type, all.kept.len(), all.failed.len()), (1, 2, 0));
        here.ask("1.2.2", &[(CT, "1.7.1"), (CT, "1.7.9"), ("1.2.840.10008.5.1.4.1.1.4", "1.7.2")]).unwrap();
        let (event_type, some) = here.report("1.2.2");
        assert_eq!((event_type, some.kept), (2, vec!["1.7.1".to_owned()]));
        let failed = [("1.7.9".to_owned(), Some(0x0112)), ("1.7.2".to_owned(), Some(0x0119))];
        assert_eq!(some.failed, failed);
        // Removed after the question, before the report: it says what is, not what was.
        std::fs::remove_file(here.folder.path().join("instances/1.7/1.7.1.dcm")).unwrap();
        assert_eq!(here.report("1.2.1").1.failed, [("1.7.1".to_owned(), Some(0x0112))]);
    }

    #[test]
    fn a_question_outlives_its_process_until_its_report_is_taken() {
        let here = here(&[("1.7", "1.7.1")]);
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        here.ask("1.2.2", &[(CT, "1.7.1")]).unwrap();
        std::fs::write(here.folder.path().join("commitments/1.2.3.part"), "{").unwrap();
        std::fs::write(here.folder.path().join("commitments/1.2.4.json"), "{").unwrap();
        here.pledges.forget(&"1.2.2".parse().unwrap());
        let later = QuestionFolder::open(here.folder.path()).unwrap();
        assert_eq!(later.waiting().keys().collect::<Vec<_>>(), [&"1.2.1".parse().unwrap()]);
        assert_eq!(later.count(&"CT1".parse().unwrap()).unwrap(), (1, 1));
        let left: Vec<_> = std::fs::read_dir(here.folder.path().join("commitments")).unwrap().collect();
        assert_eq!(left.len(), 2, "what nobody was told success for goes, what is damaged stays: {left:?}");
    }

    #[test]
    fn the_same_question_again_is_one_and_another_under_its_uid_is_refused() {
        let here = here(&[("1.7", "1.7.1")]);
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        here.ask("1.2.1", &[(CT, "1.7.1")]).unwrap();
        assert_eq!(here.pledges.questions.count(&"CT1".parse().unwrap()).unwrap(), (1, 1));
        let other = here.ask("1.2.1", &[(CT, "1.7.2")]);
        assert_eq!(other, Err(ActionStatus::DuplicateTransaction));
    }

    #[test]
    fn what_is_no_question_or_too_long_a_one_is_refused() {
        let here = here(&[]);
        let take = |bytes: Vec<u8>| here.pledges.take(&"CT1".parse().unwrap(), bytes, &syntax()).unwrap_err();
        assert_eq!(take(vec![0xFF; 40]), ActionStatus::InvalidArgument);
        assert_eq!(take(question("1.2.1", &[])), ActionStatus::InvalidArgument);
        assert_eq!(take(question("../../x", &[(CT, "1.7.1")])), ActionStatus::InvalidArgument);
        assert_eq!(take(question("1.2.1", &[(CT, "../x")])), ActionStatus::InvalidArgument);
        assert_eq!(take(vec![0; LONGEST_QUESTION + 1]), ActionStatus::ResourceLimitation);
        let many: Vec<(&str, &str)> = vec![(CT, "1.7.1"); MOST_REFERENCES + 1];
        assert_eq!(take(question("1.2.1", &many)), ActionStatus::ResourceLimitation);
        let count = |title: &str| here.pledges.questions.count(&title.parse().unwrap()).unwrap();
        assert_eq!(count("CT1"), (0, 0));
        let wait = |title: &str, n: usize| {
            let waiting = Waiting::new(title.parse().unwrap(), 0);
            here.questions.waiting().insert(format!("1.3.{n}").parse().unwrap(), waiting);
        };
        (0..MOST_WAITING_OF_ONE).for_each(|n| wait("CT1", n));
        assert_eq!(here.ask("1.2.1", &[(CT, "1.7.1")]), Err(ActionStatus::ResourceLimitation));
        (0..MOST_WAITING).for_each(|n| wait("CT2", n));
        assert_eq!(here.ask("1.2.1", &[(CT, "1.7.1")]), Err(ActionStatus::ResourceLimitation));
    }

    #[test]
    fn a_question_about_a_whole_series_says_that_it_is_whole_and_others_say_nothing() {
        let instances: Vec<String> = (0..5).map(|n| format!("1.7.{n}")).collect();
        let stored: Vec<(&str, &str)> = instances.iter().map(|uid| ("1.7", uid.as_str())).collect();
        let mut here = here(&stored);
        let references: Vec<(&str, &str)> = instances.iter().map(|uid| (CT, uid.as_str())).collect();
        here.ask("1.2.1", &references[..3]).unwrap();
        here.ask("1.2.2", &[&references[..], &[(CT, "1.9.9")]].concat()).unwrap();
        assert!(here.hinted.try_recv().is_err(), "too few, or one that is not here");
        here.ask("1.2.3", &references).unwrap();
        let hint = SeriesHint { series_instance_uid: "1.7".parse().unwrap(), n_instances: 5 };
        assert_eq!(here.hinted.try_recv().unwrap(), hint);
    }
}
