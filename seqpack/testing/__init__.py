"""Contract suites for authors of plugins: subclass one, name your component, and run pytest.

    from seqpack.testing import HandlerContract

    class TestTickets(HandlerContract):
        target = "seqpack_acme.tickets:TicketHandler"
        records = ({"subject": "Skates", "body": "", "answer": "Sorry."},)
        unusable = ({"subject": "Skates", "body": "", "answer": ""},)

The built-in components pass the same suites. The classes need no pytest themselves: any runner of ``test_*`` methods
will do.
"""

from seqpack.testing.handlers import HandlerContract
from seqpack.testing.strategies import StrategyContract
from seqpack.testing.templates import TemplateContract

__all__ = ["HandlerContract", "StrategyContract", "TemplateContract"]
