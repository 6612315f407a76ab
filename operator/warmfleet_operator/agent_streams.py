"""What node agents say of themselves: one status stream per agent.

What a node keeps is in its NodeCache, which the agent writes on transitions. The stream tells what happens between two
of them: how many bytes of an entry are there, how fast they come and when the last will be. So a stream that is silent
costs these figures and nothing else: whether an agent works is what Kubernetes' probes and its NodeCache say.
"""

from collections.abc import Mapping

from warmfleet_api import agent_status, names
from warmfleet_api.agent_status import HEARTBEAT_SECONDS, AgentStatus, Transfer
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.streams import Listener, Speech, StatusStreams

SILENT_SECONDS = 3 * HEARTBEAT_SECONDS


class AgentStreams(StatusStreams[AgentStatus]):
    """The status streams of all agents."""

    def __init__(self, listener: Listener, metrics: Metrics) -> None:
        speech = Speech(
            port=names.AGENT_PORT,
            silent_seconds=SILENT_SECONDS,
            decode=agent_status.decode,
            is_of=lambda status, pod: status.node == pod.spec.node_name,
            decisive=_decisive,
        )
        super().__init__(listener, speech, metrics.agent_streams, metrics.agent_lines)

    def transfers(self, uid: str) -> Mapping[str, Transfer]:
        """Return what is on its way on the node of the agent with this pod uid, by key; nothing while it is silent."""
        status, silent = self.status(uid), self.silent_seconds(uid)
        if status is None or silent is None or silent >= SILENT_SECONDS:
            return {}
        return {transfer.key: transfer for transfer in status.transfers}


def _decisive(status: AgentStatus) -> object:
    """Return what is under way, without how far it is."""
    return status.error, status.in_memory, [(each.key, each.state, each.target) for each in status.transfers]
