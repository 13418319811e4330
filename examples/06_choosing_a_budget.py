"""Choosing a budget: what epsilon buys, before any model is trained.

How many rounds, how much noise, and how large a cohort? All of it can be answered
from the mechanism alone, without looking at any data, for the 5,912 persons of the
RAND Health Insurance Experiment.

What you should see, within a minute: ten times the rounds cost about three and a half
times the epsilon, and an epsilon above 20 is called infinite, because of what is set
aside of delta; at one epsilon a larger cohort needs more noise on the sum and leaves
less noise on the mean; and a first question of the data, then training, are added up as
they are spent, for less than the sum of their epsilons.

Run: python examples/06_choosing_a_budget.py
"""

import numpy as np

import jaxfed as jf

CLIENTS, DELTA = 5912, 1e-5
# Each claim sets this much of delta aside for noise that is drawn from finite tables.
DISTANCE = 2.0**-46


def mechanism(multiplier=1.0, rate=0.1):
    """Clients join by their own coins; the sum of their updates gets noise."""
    return jf.privacy.central(
        sampling=jf.sampling.Poisson(population=CLIENTS, rate=rate),
        clipping=jf.clipping.Fixed(norm=0.2),
        noise=jf.noise.Gaussian(multiplier=multiplier),
        delta=DELTA,
    )


# [rounds]
print("epsilon, by noise multiplier (down) and rounds (across), rate 0.1")
ROUNDS = np.array([10, 30, 100, 300, 1000])
print("      " + "".join(f"{count:>8}" for count in ROUNDS))
table = {}
for multiplier in (0.7, 1.0, 2.0, 4.0):
    private = mechanism(multiplier)
    table[multiplier] = np.array([private.epsilon(rounds=int(r)) for r in ROUNDS])
    print(f"{multiplier:6}" + "".join(f"{value:8.2f}" for value in table[multiplier]))

# [cohort]
print()
print("epsilon 1 after 100 rounds, by the share of clients in a round")
print("  rate  clients  noise on the sum  noise on the mean, of one clip norm")
on_mean = []
for rate in (0.01, 0.1, 0.5):
    private = mechanism(rate=rate).calibrated(epsilon=1.0, delta=DELTA, rounds=100)
    expected = private.sampling.expected_clients
    on_mean.append(private.noise.multiplier / expected)
    print(
        f"{rate:6} {expected:8.0f} {private.noise.multiplier:17.2f} {on_mean[-1]:20.4f}"
    )

# [calibration]
# Any one of noise, rounds and rate follows from the other two and the budget.
private = mechanism(multiplier=4.0)
rounds = jf.accounting.calibrate_rounds(
    private.sampling.event(4.0), epsilon=1.0, delta=DELTA, distance=DISTANCE
)


def event(rate):
    """One round at another rate, with the same noise on the sum."""
    return jf.sampling.Poisson(population=CLIENTS, rate=rate).event(4.0)


rate = jf.accounting.calibrate_rate(
    event, 200, epsilon=1.0, delta=DELTA, distance=DISTANCE
)
print()
print(f"epsilon 1 with multiplier 4 and rate 0.1: {rounds} rounds")
print(f"epsilon 1 with multiplier 4 and 200 rounds: a rate of {rate:.4f}")

# [odometer]
# What was spent so far: one question of all persons, then training, round by round.
question = jf.sampling.Full(population=CLIENTS).event(8.0)
training = private.sampling.event(4.0)
odometer = jf.accounting.Odometer(delta=DELTA, distance=DISTANCE)
odometer.add(question)
after_question = odometer.epsilon()
spent = []
for _ in range(50):
    odometer.add(training)
    spent.append(odometer.epsilon())
alone = private.epsilon(rounds=50)
print()
print(f"a question costs {after_question:.2f}, 50 rounds alone {alone:.2f},")
print(f"both together {spent[-1]:.2f}, less than the sum {after_question + alone:.2f}")
next_round = odometer.epsilon_if(training)
print(f"one more round would make it {next_round:.3f}")

# [two]
# Two members of a household change together: their joint epsilon is larger.
pair = jf.accounting.group_epsilon(training, 50, delta=DELTA, size=2)
print(f"50 rounds for two clients who are one unit: {pair:.2f}")

values = np.array(list(table.values()))
finite = np.isfinite(values)
assert finite[:, :3].all()
assert values[finite].max() < np.log(DELTA / DISTANCE) < 20.5
assert (values[:, 1:] >= values[:, :-1]).all()  # more rounds cost more
assert (values[1:] <= values[:-1]).all()  # more noise costs less
assert 2.5 < table[4.0][4] / table[4.0][2] < 4.0  # ten times the rounds
assert on_mean[0] > 2 * on_mean[1] > 2 * on_mean[2]
assert mechanism(4.0).epsilon(rounds=rounds) <= 1.0
assert mechanism(4.0).epsilon(rounds=rounds + 5) > 1.0
assert mechanism(4.0, rate=rate).epsilon(rounds=200) <= 1.0
assert (np.diff(spent) > 0).all()
assert max(after_question, alone) < spent[-1] < 0.9 * (after_question + alone)
assert spent[-1] < next_round < spent[-1] * 1.05
assert alone < pair
