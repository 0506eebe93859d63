//! Answers to the controller's questions.

use super::Control;
use crate::{
    core_io::CoreIo,
    management::{Question, to_answer},
    show,
};
use edgeplex_mgmt::{
    Answer,
    show::{CvmQuery, Reloaded},
};
use serde_json::Value;
use tracing::error;

impl<I: CoreIo> Control<I> {
    pub(super) async fn question(&mut self, (query, reply): Question) {
        match query {
            CvmQuery::LspPing { .. } | CvmQuery::LspTraceroute { .. } => self.core.ask_lsp(query, reply),
            query => {
                let answer = self.answer(query).await;
                // The asker may have gone away.
                let _ = reply.send(answer);
            }
        }
    }

    async fn answer(&mut self, query: CvmQuery) -> Answer<Value> {
        match query {
            CvmQuery::Status => to_answer(&show::status(&self.vpn, self.started.elapsed(), self.relay.refused())),
            CvmQuery::Bgp => to_answer(&self.reflectors.neighbors()),
            CvmQuery::Routes { attachment } => to_answer(&show::routes(&self.vpn, attachment.as_ref())),
            CvmQuery::Labels => to_answer(&show::labels(&self.vpn)),
            CvmQuery::Tunnels => to_answer(&show::tunnels(self.core.core(), &self.vpn)),
            CvmQuery::Forwarding => to_answer(&show::forwarding(self.core.core())),
            CvmQuery::OspfNeighbors
            | CvmQuery::OspfInterfaces
            | CvmQuery::OspfDatabase
            | CvmQuery::OspfRoutes
            | CvmQuery::LdpNeighbors
            | CvmQuery::LdpBindings
            | CvmQuery::Bfd => self.core.show(&query).await,
            // Pings run beside the control task, and the long poll is answered before it comes here.
            CvmQuery::LspPing { .. } | CvmQuery::LspTraceroute { .. } | CvmQuery::Fabric { .. } => {
                Answer::Error("not a question to the control task".into())
            }
            CvmQuery::Instance(order) => match self.order(order).await {
                Ok(status) => to_answer(&status),
                Err(error) => Answer::Error(error),
            },
            CvmQuery::Reload => match self.reload().await {
                Ok(()) => to_answer(&Reloaded {}),
                Err(error) => {
                    error!(error = format!("{error:#}"), "the new configuration is not taken");
                    Answer::Error(format!("{error:#}"))
                }
            },
        }
    }
}
