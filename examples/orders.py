"""Rows of a table through a typed function: invoices for the orders in orders.csv, of which some are wrong.

    $ ztasks run examples/orders.py:invoice --csv examples/orders.csv --set vat=0.19 -o invoices.jsonl
    ztasks: 10 jobs: 5 ok, 5 failed
    ...
    $ python examples/orders.py invoices.jsonl
    card       143.51
    transfer  1612.95
    1004: line 6 of examples/orders.csv: day='2026-02-30' does not become date: ...
    1005: line 7 of examples/orders.csv: payment='cheque' does not become Payment: ...
    1006: line 8 of examples/orders.csv: quantity='two' does not become int: ...
    1007: line 9 of examples/orders.csv has 6 values, and its first row names 8 columns
    1008: an order of nothing

Each row is a call with keyword arguments, and each of them becomes what its annotation says before the task sees it. A
row that does not fit is a failed record with its line, and costs nothing but itself. Two equal rows are two jobs. Mend
rows in the table and run the command again with --resume: only these are done, and those that still fail. A mended row
is another input: the record of what it was stays in the file, and the report passes over it.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum

from ztasks import read_records

CENT = Decimal("0.01")


class Payment(Enum):
    CARD = "card"
    TRANSFER = "transfer"


DAYS_TO_PAY = {Payment.CARD: 0, Payment.TRANSFER: 14}


@dataclass
class Invoice:
    number: int
    payment: Payment
    due: date
    net: Decimal
    total: Decimal


def invoice(
    number: int,
    day: date,
    customer: str,
    payment: Payment,
    quantity: int,
    price: Decimal,
    express: bool,
    note: str = "",
    vat: Decimal = Decimal(0),
) -> Invoice:
    """Make the invoice of an order. In its record, Decimal and date are text: JSON has neither."""
    if quantity < 1:
        raise ValueError("an order of nothing")
    net = (quantity * price + (10 if express else 0)).quantize(CENT, ROUND_HALF_UP)
    total = (net * (1 + vat)).quantize(CENT, ROUND_HALF_UP)
    return Invoice(number, payment, day + timedelta(days=DAYS_TO_PAY[payment]), net, total)


def report(path: str) -> None:
    """Print what is to be paid, and what is wrong."""
    totals: dict[str, Decimal] = defaultdict(Decimal)
    done, wrong = set(), {}
    for record in read_records(path):
        if record.error is None:
            totals[record.result["payment"]] += Decimal(record.result["total"])
            done.add(str(record.result["number"]))
        else:
            row = record.input  # a list if it has not as many values as there are columns
            wrong[row["number"] if isinstance(row, dict) else row[0]] = record.error.message
    for payment, total in sorted(totals.items()):
        print(f"{payment:8}  {total:7}")
    for number, message in sorted(wrong.items()):
        if number not in done:
            print(f"{number}: {message}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        report(argument)
    if not sys.argv[1:]:
        print(__doc__)
