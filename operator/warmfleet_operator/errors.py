"""What ends the operator's process or brings a key back; errors of the Kubernetes API: `warmfleet_kube.errors`.

::

    Incomplete                 a pass of which not every action was taken: it comes again

    ProcessError               ends the process with its message; nobody needs a traceback
    ├── NotInstalled           the cluster lacks what `kubectl apply` has to bring first
    └── LeaseLost              another process leads, or nobody could be asked in time
"""

from warmfleet_kube.errors import ProcessError


class Incomplete(Exception):
    """Some actions were not taken, by the API or in a pause of the lead; the key comes again after its back-off."""


class NotInstalled(ProcessError):
    """The cluster lacks CRDs or rights; the message says what to apply."""

    exit_code = 2


class LeaseLost(ProcessError):
    """This process leads no more and must not write again."""
