//! The filter chain: the configured filters, indexed by the moment they want to be called.

use std::sync::Arc;

use bytes::Bytes;
use tollway_filter_api::{
    Filter, Flow, Outcome, Phases, Rejection, RequestCtx, RequestHead, ResponseHead,
};

/// Filters in their configured order. A request keeps the chain it began with.
pub(crate) struct Chain {
    head: Vec<Arc<dyn Filter>>,
    body: Vec<Arc<dyn Filter>>,
    call: Vec<Arc<dyn Filter>>,
    // The way out runs backwards, so these are stored backwards.
    response: Vec<Arc<dyn Filter>>,
    chunk: Vec<Arc<dyn Filter>>,
    end: Vec<Arc<dyn Filter>>,
}

impl Chain {
    /// Sorts `filters` by their moments.
    pub(crate) fn new(filters: &[Arc<dyn Filter>]) -> Chain {
        let wanting =
            |phase: Phases| filters.iter().filter(move |f| f.phases().contains(phase)).cloned();
        let backwards = |phase: Phases| wanting(phase).rev().collect();
        Chain {
            head: wanting(Phases::HEAD).collect(),
            body: wanting(Phases::BODY).collect(),
            call: wanting(Phases::CALL).collect(),
            response: backwards(Phases::RESPONSE),
            chunk: backwards(Phases::CHUNK),
            end: backwards(Phases::END),
        }
    }

    /// Runs the head phase until a filter decides.
    pub(crate) async fn head(&self, ctx: &mut RequestCtx, head: &RequestHead) -> Flow {
        for filter in &self.head {
            let flow = filter.head(ctx, head).decided().await;
            if !matches!(flow, Flow::Next) {
                return flow;
            }
        }
        Flow::Next
    }

    /// Runs the body phase until a filter decides; where none does, what comes before the call.
    pub(crate) async fn body(&self, ctx: &mut RequestCtx, head: &RequestHead) -> Flow {
        for filter in &self.body {
            let flow = filter.body(ctx, head).decided().await;
            if !matches!(flow, Flow::Next) {
                return flow;
            }
        }
        for filter in &self.call {
            let flow = filter.call(ctx).decided().await;
            if !matches!(flow, Flow::Next) {
                return flow;
            }
        }
        Flow::Next
    }

    /// Tells filters that the request is no model call itself.
    pub(crate) fn diverted(&self, ctx: &mut RequestCtx) {
        self.head.iter().for_each(|filter| filter.diverted(ctx));
    }

    /// Lets filters change the head of the answer.
    pub(crate) fn response(
        &self,
        ctx: &mut RequestCtx,
        head: &RequestHead,
        response: &mut ResponseHead,
    ) {
        for filter in &self.response {
            filter.response(ctx, head, response);
        }
    }

    /// Lets filters see or change a piece of the body.
    pub(crate) fn chunk(&self, ctx: &mut RequestCtx, chunk: &mut Bytes) -> Result<(), Rejection> {
        self.chunk.iter().try_for_each(|filter| filter.chunk(ctx, chunk))
    }

    /// Tells filters that the request is over.
    pub(crate) fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        for filter in &self.end {
            filter.end(ctx, outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::time::Instant;

    use tollway_filter_api::{Answer, AnswerBody, Step};

    use super::*;

    /// Says what it is told to before a call, and counts how often it was asked.
    struct Last {
        refuses: bool,
        asked: AtomicU32,
    }

    impl Filter for Last {
        fn phases(&self) -> Phases {
            Phases::CALL
        }

        fn call<'a>(&'a self, _: &'a mut RequestCtx) -> Step<'a> {
            self.asked.fetch_add(1, Relaxed);
            match self.refuses {
                true => Step::reject(tollway_filter_api::Reject::internal("no", "no")),
                false => Step::Wait(Box::pin(std::future::ready(Flow::Next))),
            }
        }
    }

    struct Answers(bool);

    impl Filter for Answers {
        fn phases(&self) -> Phases {
            Phases::BODY
        }

        fn body<'a>(&'a self, _: &'a mut RequestCtx, _: &'a RequestHead) -> Step<'a> {
            match self.0 {
                true => {
                    let (headers, body) = (Vec::new(), AnswerBody::Empty);
                    Step::answer(Answer { status: 200, headers, body })
                }
                false => Step::next(),
            }
        }
    }

    async fn run(answers: bool, refuses: bool) -> (Flow, u32) {
        let last = Arc::new(Last { refuses, asked: AtomicU32::new(0) });
        // Its place among the filters says nothing: all others come before.
        let chain = Chain::new(&[Arc::clone(&last) as _, Arc::new(Answers(answers))]);
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/");
        let (head, ()) = http::Request::new(()).into_parts();
        let flow = chain.body(&mut ctx, &head).await;
        (flow, last.asked.load(Relaxed))
    }

    #[tokio::test]
    async fn what_comes_before_a_call_comes_after_all_who_could_answer() {
        assert!(matches!(run(false, false).await, (Flow::Next, 1)));
        assert!(matches!(run(false, true).await, (Flow::Reject(_), 1)));
        assert!(matches!(run(true, true).await, (Flow::Answer(_), 0)));
    }
}
