"""The client keeps what its local work has made: fine-tuning, to be evaluated.

Local adaptation of a federated model: Yu, Bagdasaryan and Shmatikov 2020,
arXiv:2002.04758, section 3 (fine-tuning). Gives no privacy by itself.
"""

from jaxfed import _check as check
from jaxfed import tree
from jaxfed.typing import ClientResult, LocalWork, PyTree, Shared


def fine_tuned(local: LocalWork) -> LocalWork:
    """Returns local work after which a client keeps its fine-tuned parameters.

    What is sent is unchanged. To measure fine-tuning alone, run one round over all
    clients, `sampling.Full`, from a trained model, with `evaluation.personal`.

    Args:
        local: what makes a change of the parameters, and keeps nothing itself.

    Raises:
        TypeError: `local` is no local work.
        ValueError: its results are no change of the parameters, or it keeps a state.
    """
    check.instance(LocalWork, "pass for example clients.sgd(...)", local=local)
    if local.compression is not None:
        raise ValueError(
            f"local must not be compressed, got {local!r}: a client keeps what it made "
            "and not what it sent; pass compressed(fine_tuned(...), ...)."
        )
    if local.init_client is not LocalWork._field_defaults["init_client"]:
        raise ValueError(
            f"local must keep nothing itself, got {local!r}, whose clients do; wrap "
            "clients.sgd(...) or the like."
        )
    if local.kind not in ("change", "prox"):
        raise ValueError(
            f"local must make a change of the parameters, got {local!r}; pass for "
            "example clients.sgd(...)."
        )

    def finish(shared: Shared, carry: PyTree) -> ClientResult:
        result = local.finish(shared, carry)
        own = tree.add(shared.params, tree.cast_like(result.update, shared.params))
        return result._replace(client_state=own)

    return local._replace(
        init=lambda shared, client_state: local.init(shared, ()),
        finish=finish,
        init_client=lambda params: params,
        personal=lambda params, client_state: client_state,
        name=f"fine_tuned({local.name})",
    )
