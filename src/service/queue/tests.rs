use super::*;
use crate::pipeline::ingest::{Clue, StoredInstance};
use crate::pipeline::series::fingerprint_of;
use crate::service::store::tests::fresh;
use crate::service::store::{DeliveryState, JobFilter, NewVersion};
use crate::vocabulary::dicom::SopClassUid;

const LEASE: Duration = Duration::from_secs(60);

fn at(ms: i64) -> Now {
    Now { ms, minute_of_day: 12 * 60 }
}

async fn complete(store: &Store, series: &str, n: usize, choice: Choice, at_ms: i64) -> u32 {
    let series = SeriesInstanceUid::parse(series).unwrap();
    let instance = |n| StoredInstance {
        path: "/x".into(),
        sop_class_uid: SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap(),
        sop_instance_uid: SopInstanceUid::parse(&format!("{series}.{n}")).unwrap(),
        series_instance_uid: series.clone(),
        clue: Clue::default(),
    };
    let instances: Vec<_> = (0..n).map(instance).collect();
    let fingerprint = fingerprint_of(instances.iter().map(|i| &i.sop_instance_uid));
    let new = NewVersion {
        series: &series,
        instances: &instances,
        fingerprint: &fingerprint,
        choice: &choice,
        why: "test",
        at_least: 1,
        not_before_ms: at_ms,
    };
    store.complete(&new, at_ms).await.unwrap()
}

fn priority(priority: Priority) -> Choice {
    Choice { priority, ..Choice::default() }
}

fn delivery() -> [NewDelivery; 1] {
    [NewDelivery {
        delivery: "1.7 v1 x".to_owned(),
        destination: "TPS@h:104".to_owned(),
        state: DeliveryState::Pending,
        reason: None,
        of: Some(("1.7".to_owned(), 1)),
    }]
}

async fn state(store: &Store, series: &str) -> (JobState, Option<String>) {
    let jobs = store.jobs(&JobFilter { states: Vec::new(), limit: 100 }).await.unwrap();
    let job = jobs.iter().find(|job| job.series == series).unwrap();
    (job.state, job.reason.clone())
}

#[tokio::test]
async fn jobs_go_by_priority_and_then_by_age_and_each_goes_once() {
    let (_folder, store) = fresh().await;
    complete(&store, "1.1", 2, priority(Priority::OffPeak), 1).await;
    complete(&store, "1.2", 2, Choice::default(), 2).await;
    complete(&store, "1.3", 2, Choice::default(), 3).await;
    complete(&store, "1.4", 2, priority(Priority::Urgent), 4).await;
    let queue = Queue::new(&store, "a", LEASE);
    let mut order = Vec::new();
    while let Some(job) = queue.take(at(10)).await.unwrap() {
        assert_eq!(job.instances.len(), 2);
        order.push(job.series.to_string());
    }
    assert_eq!(order, ["1.4", "1.2", "1.3", "1.1"]);
}

#[tokio::test]
async fn the_same_instances_are_one_version_and_more_make_another_that_supersedes_what_waits() {
    let (_folder, store) = fresh().await;
    assert_eq!(complete(&store, "1.7", 2, Choice::default(), 1).await, 1);
    assert_eq!(complete(&store, "1.7", 2, Choice::default(), 2).await, 1);
    assert_eq!(complete(&store, "1.7", 3, Choice::default(), 3).await, 2);
    let job = Queue::new(&store, "a", LEASE).take(at(9)).await.unwrap().unwrap();
    assert_eq!((job.version, job.instances.len()), (2, 3));
    assert_eq!(Queue::new(&store, "a", LEASE).take(at(9)).await.unwrap(), None);
    let history = store.history("1.7", 100).await.unwrap();
    assert!(
        history.iter().any(|h| h.became == "superseded" && h.cause == "version 2 is here"),
        "{history:?}"
    );
}

#[tokio::test]
async fn a_dead_nodes_job_is_taken_over_when_its_lease_ends_and_its_late_end_changes_nothing() {
    let (_folder, store) = fresh().await;
    complete(&store, "1.7", 2, Choice::default(), 0).await;
    let (a, b) = (Queue::new(&store, "a", LEASE), Queue::new(&store, "b", LEASE));
    let first = a.take(at(0)).await.unwrap().unwrap();
    assert!(a.renew(&first, 30_000).await.unwrap());
    assert_eq!(b.take(at(60_001)).await.unwrap(), None, "the lease was renewed");
    let second = b.take(at(90_001)).await.unwrap().unwrap();
    assert_eq!((second.attempt, &second.series), (2, &first.series));
    assert!(!a.renew(&first, 90_002).await.unwrap());
    let deliveries = delivery();
    let end = End::Contoured { result: "results/1.7/v1-x.dcm", organs: &[], deliveries: &deliveries };
    assert!(!a.end(&first, &end, 90_003).await.unwrap());
    assert_eq!(store.deliveries(None).await.unwrap(), []);
    assert!(b.end(&second, &end, 90_004).await.unwrap());
    assert!(!b.end(&second, &end, 90_005).await.unwrap(), "it ends once");
    assert_eq!(store.deliveries(None).await.unwrap().len(), 1);
    assert_eq!(state(&store, "1.7").await.0, JobState::Contoured);
    let history = store.history("1.7", 100).await.unwrap();
    assert!(history.iter().any(|h| h.cause == "the lease of a ran out"), "{history:?}");
}

#[tokio::test]
async fn the_same_node_that_took_a_job_over_from_itself_does_not_end_it_twice() {
    let (_folder, store) = fresh().await;
    complete(&store, "1.7", 2, Choice::default(), 0).await;
    let queue = Queue::new(&store, "a", LEASE);
    let first = queue.take(at(0)).await.unwrap().unwrap();
    let second = queue.take(at(60_001)).await.unwrap().unwrap();
    assert!(!queue.end(&first, &End::Refused("slow"), 60_002).await.unwrap());
    assert!(queue.end(&second, &End::Refused("fast"), 60_003).await.unwrap());
    assert_eq!(state(&store, "1.7").await, (JobState::Refused, Some("fast".to_owned())));
}

#[tokio::test]
async fn what_ends_the_process_each_time_is_given_up_until_a_person_asks() {
    let (_folder, store) = fresh().await;
    complete(&store, "1.7", 2, Choice::default(), 0).await;
    for _ in 0..MOST_ATTEMPTS {
        let queue = Queue::new(&store, "a", LEASE);
        assert!(queue.take(at(0)).await.unwrap().is_some());
        assert_eq!(queue.release_all(0).await.unwrap(), 1);
    }
    let queue = Queue::new(&store, "a", LEASE);
    assert_eq!(queue.take(at(0)).await.unwrap(), None);
    let (is, reason) = state(&store, "1.7").await;
    assert!(is == JobState::Failed && reason.clone().unwrap().contains("8 times"), "{is:?} {reason:?}");
    assert_eq!(queue.retry_failed(0).await.unwrap(), 0, "a start does not try it again");
    assert_eq!(store.retry("1.7", 1, 0).await.unwrap(), Ok(()));
    assert_eq!(queue.take(at(0)).await.unwrap().unwrap().attempt, 1);
}

#[tokio::test]
async fn a_fault_waits_its_time_and_a_stop_does_not_count() {
    let (_folder, store) = fresh().await;
    complete(&store, "1.7", 2, Choice::default(), 0).await;
    let queue = Queue::new(&store, "a", LEASE);
    let job = queue.take(at(0)).await.unwrap().unwrap();
    assert!(queue.end(&job, &End::Again { reason: "no memory", not_before_ms: 5_000 }, 0).await.unwrap());
    assert_eq!(queue.take(at(4_999)).await.unwrap(), None);
    let job = queue.take(at(5_000)).await.unwrap().unwrap();
    assert_eq!(job.attempt, 2);
    assert!(queue.end(&job, &End::GivenBack("stop"), 5_001).await.unwrap());
    let job = queue.take(at(5_001)).await.unwrap().unwrap();
    assert_eq!(job.attempt, 2);
    assert!(queue.end(&job, &End::Failed("no memory"), 5_002).await.unwrap());
    assert_eq!(queue.retry_failed(5_003).await.unwrap(), 1);
    assert!(queue.take(at(5_003)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_up_no_job() {
    let (_folder, store) = fresh().await;
    let hour_ms = 3_600_000;
    complete(&store, "1.7", 2, Choice::default(), hour_ms).await;
    assert!(Queue::new(&store, "a", LEASE).take(at(0)).await.unwrap().is_some());
}

/// A node dies with a job, and the clock is set back by an hour: nobody waits that hour for its lease.
#[tokio::test]
async fn a_clock_that_is_set_back_does_not_draw_a_dead_nodes_lease_out() {
    let (_folder, store) = fresh().await;
    let hour_ms = 3_600_000;
    complete(&store, "1.7", 2, Choice::default(), 0).await;
    let (a, b) = (Queue::new(&store, "a", LEASE), Queue::new(&store, "b", LEASE));
    let first = a.take(at(hour_ms)).await.unwrap().unwrap();
    assert_eq!(b.take(at(hour_ms - 30_000)).await.unwrap(), None, "clocks of nodes may differ by seconds");
    let second = b.take(at(0)).await.unwrap().unwrap();
    assert!(!a.end(&first, &End::Refused("late"), 1).await.unwrap());
    assert!(b.renew(&second, 2).await.unwrap() && b.end(&second, &End::Refused("done"), 3).await.unwrap());
}

#[tokio::test]
async fn off_peak_waits_for_its_window() {
    let (_folder, store) = fresh().await;
    let window = Some("22:00-06:00".parse().unwrap());
    complete(&store, "1.7", 2, Choice { window, ..priority(Priority::OffPeak) }, 0).await;
    let queue = Queue::new(&store, "a", LEASE);
    let noon = at(0);
    assert_eq!(queue.take(noon).await.unwrap(), None);
    let ten_hours_ms = 10 * 3_600_000;
    assert_eq!(queue.take(at(ten_hours_ms - 1)).await.unwrap(), None, "not before the window");
    let night = Now { ms: ten_hours_ms, minute_of_day: 22 * 60 };
    assert!(queue.take(night).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_passed_over_waits_for_a_person_and_what_is_contoured_is_not_done_again() {
    let (_folder, store) = fresh().await;
    let choice = Choice { passed_over: Some("a localizer".to_owned()), ..Choice::default() };
    complete(&store, "1.7", 2, choice, 0).await;
    let queue = Queue::new(&store, "a", LEASE);
    assert_eq!(queue.take(at(0)).await.unwrap(), None);
    assert_eq!(state(&store, "1.7").await, (JobState::PassedOver, Some("a localizer".to_owned())));
    assert_eq!(store.retry("1.7", 1, 0).await.unwrap(), Ok(()));
    let job = queue.take(at(0)).await.unwrap().unwrap();
    let end = End::Contoured { result: "r", organs: &[], deliveries: &[] };
    assert!(queue.end(&job, &end, 0).await.unwrap());
    assert_eq!(store.retry("1.7", 1, 0).await.unwrap(), Err(JobState::Contoured));
}

#[tokio::test]
async fn what_is_held_back_goes_when_a_person_says_so() {
    let (_folder, store) = fresh().await;
    let [new] = delivery();
    let held = NewDelivery { state: DeliveryState::Held, reason: Some("a hole in a ring".to_owned()), ..new };
    store.add_delivery(&held, 0).await.unwrap();
    let take = async || store.take_due("TPS@h:104", "a", LEASE, LEASE, 1).await.unwrap();
    assert_eq!(take().await, None);
    let kept = store.deliveries(Some(("1.7", 1))).await.unwrap();
    assert_eq!(
        (kept[0].state, kept[0].last_error.as_deref()),
        (DeliveryState::Held, Some("a hole in a ring"))
    );
    assert_eq!(store.resend("1.7", 1, None, "asked", 1).await.unwrap(), 1);
    assert!(take().await.is_some());
}

#[tokio::test]
async fn a_delivery_is_tried_by_one_node_and_sent_again_on_a_persons_word() {
    let (_folder, store) = fresh().await;
    store.add_delivery(&delivery()[0], 0).await.unwrap();
    store.add_delivery(&delivery()[0], 5).await.unwrap();
    let (lease, longest) = (LEASE, Duration::from_secs(900));
    let take =
        async |owner, now_ms| store.take_due("TPS@h:104", owner, lease, longest, now_ms).await.unwrap();
    let mut taken = take("a", 0).await.unwrap();
    assert_eq!(take("b", 1).await, None);
    assert_eq!(take("b", 60_001).await.map(|d| d.delivery), Some(taken.delivery.clone()), "a is dead");
    taken.attempts = 1;
    taken.next_attempt_ms = 100_000;
    assert!(store.after_attempt(&taken, "no connection", 60_002).await.unwrap());
    assert_eq!(take("b", 99_999).await, None);
    let mut taken = take("b", 100_000).await.unwrap();
    taken.state = DeliveryState::Delivered;
    taken.delivered_ms = Some(100_001);
    assert!(store.after_attempt(&taken, "the peer has it", 100_001).await.unwrap());
    assert!(!store.after_attempt(&taken, "again", 100_002).await.unwrap());
    assert_eq!(store.resend("1.7", 1, Some("PACS@h:104"), "asked", 100_003).await.unwrap(), 0);
    assert_eq!(store.resend("1.7", 1, None, "asked", 100_003).await.unwrap(), 1);
    assert_eq!(take("b", 100_003).await.unwrap().attempts, 0);
    assert!(store.release_deliveries().await.is_ok());
    // The clock was set back by a day: what lies far ahead is due.
    assert!(take("b", 100_003 - 86_400_000).await.is_some());
}
