"""Faults of one line each, as others made them or as anyone could: what is wrong, where, and which tests must see it.

`before` stands exactly once in its file, apart from what is around it; `after` takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`what` goes wrong when the line `before` of `file` (in `posttrain/`) reads `after`; one of `tests` must fail."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


CREDIT, KL, LOSSES = "ops/test_ops_credit.py", "ops/test_ops_kl.py", "ops/test_ops_losses.py"
RAGGED, LOGPROB, WINS = "ops/test_ops_ragged.py", "ops/test_ops_logprob.py", "ops/test_ops_wins.py"
OBJECTIVES, PPO, LOOP = "test_objectives.py", "test_objectives_ppo.py", "test_loop.py"
INSPECTING = "recipes/test_recipes_inspecting.py"
ANNOTATE, SOURCE = "rollout/test_rollout_annotate.py", "rollout/test_rollout_source.py"
SAMPLER, DRAW = "rollout/test_rollout_sampler.py", "rollout/test_rollout_draw.py"


def fault(what: str, file: str, before: str, after: str, *tests: str) -> Fault:
    """A fault, with its tests at the end."""
    return Fault(what=what, file=file, before=before, after=after, tests=tests)


FAULTS = (
    # --- rewards and advantages ---
    fault("the KL is rewarded instead of penalised", "ops/credit.py",
          "return torch.where(trained, -beta * kl, 0)", "return torch.where(trained, beta * kl, 0)", CREDIT),
    fault("the score stands one past the last token of the response", "ops/credit.py",
          "return score.new_zeros(len(own)).index_put((last[some],), score[some])",
          "return score.new_zeros(len(own) + 1).index_put((last[some] + 1,), score[some])[:-1]", CREDIT),
    fault("the mean KL of an answer is over words that are not the policy's too", "ops/credit.py",
          "mean_kl = segment_mean(kl, response, len(score), trained)",
          "mean_kl = segment_mean(kl, response, len(score), torch.ones_like(trained))", CREDIT),
    fault("the penalty for a cut answer falls on those that ended", "ops/credit.py",
          "return clipped - missing_eos_penalty * (~stopped).to(score.dtype)",
          "return clipped - missing_eos_penalty * stopped.to(score.dtype)", CREDIT),
    fault("the two values of a delta are swapped", "ops/credit.py",
          "delta = reward[step] + gamma * next_value - value[step]",
          "delta = reward[step] + gamma * value[step] - next_value", CREDIT),
    fault("advantages go on through the environment's tokens", "ops/credit.py",
          "places = trained.nonzero().squeeze(1)", "places = (segment >= 0).nonzero().squeeze(1)", CREDIT),
    fault("RLOO's baseline holds the answer itself", "ops/credit.py",
          "others = (count - 1).clamp_min(1)", "others = count", CREDIT),
    fault("a group's scores are scaled and not centred", "ops/credit.py",
          "centred = score - total / count", "centred = score", CREDIT),
    fault("whitening does not centre", "ops/ragged.py",
          "return (centred if shift else inside) / deviation", "return inside / deviation", RAGGED),
    fault("every rank whitens by its own mean", "ops/ragged.py",
          "sums = total(torch.stack([inside.sum(), where.sum().to(values.dtype)]))",
          "sums = torch.stack([inside.sum(), where.sum().to(values.dtype)])", RAGGED),
    fault("beta falls when the KL is too large", "ops/kl.py",
          "error = min(max(kl / target - 1, -0.2), 0.2)", "error = min(max(1 - kl / target, -0.2), 0.2)", KL),
    # --- losses ---
    fault("k1 has actor and reference swapped", "ops/kl.py",
          "return actor - reference", "return reference - actor", KL),
    fault("k3 has the sign of its difference turned", "ops/kl.py",
          "return torch.expm1(-difference) + difference", "return torch.expm1(difference) - difference", KL),
    fault("DPO adds what the reference says", "ops/losses.py",
          "return (chosen - ref_chosen) - (rejected - ref_rejected)",
          "return (chosen + ref_chosen) - (rejected + ref_rejected)", LOSSES),
    fault("PPO takes the better of the two bounds instead of the worse", "ops/losses.py",
          "return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))",
          "return torch.minimum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))", LOSSES),
    fault("the critic's clipping lets large errors go", "ops/losses.py",
          "loss = torch.maximum(loss, (near - returns).square())",
          "loss = torch.minimum(loss, (near - returns).square())", LOSSES),
    fault("a margin makes pairs easier", "ops/losses.py",
          "difference = better - worse - margin", "difference = better - worse + margin", LOSSES),
    fault("tied answers compete with each other", "ops/losses.py",
          "below = (prompt[:, None] == prompt) & (ranks[:, None] < ranks) & ranked[:, None]",
          "below = (prompt[:, None] == prompt) & (ranks[:, None] <= ranks) & ranked[:, None]", LOSSES),
    fault("ties count as wrong", "ops/wins.py",
          "return ((first > second).to(first.dtype) + (first >= second).to(first.dtype)) / 2",
          "return (first > second).to(first.dtype)", WINS),
    fault("log-probs leave the temperature out", "ops/logprob.py",
          "return logits if temperature == 1.0 else logits / temperature", "return logits", LOGPROB),
    fault("log(softmax(x)) where log_softmax belongs", "ops/logprob.py",
          'return (-F.cross_entropy(logits, wanted, reduction="none"),)',
          "return (logits.softmax(-1).gather(-1, wanted[:, None]).squeeze(-1).log(),)", LOGPROB),
    # --- models and batches ---
    fault("the value is that after a token, not before it", "models/heads.py",
          "return torch.where(batch.trained, after[batch.predictor.clamp(min=0)], torch.zeros_like(after))",
          "return torch.where(batch.trained, after, torch.zeros_like(after))", PPO),
    fault("a token is predicted from its own hidden state", "models/heads.py",
          "read, targets = hidden[predictors], batch.tokens[places]",
          "read, targets = hidden[places], batch.tokens[places]", OBJECTIVES),
    fault("alternatives leave the temperature out", "models/heads.py",
          "return head_top(read, policy.logits, count, temperature=policy.temperature)",
          "return head_top(read, policy.logits, count)", "models/test_models_alternatives.py"),
    fault("the critic's loss moves a trunk that it was to leave alone", "models/heads.py",
          "values = _read(self.value_head, read.detach() if detach_values else read, batch)",
          "values = _read(self.value_head, read, batch)", PPO),
    fault("an answer's first token is predicted one place too late", "data/pack.py",
          "predictor[starts[full]] = np.where(parent >= 0, ends[parent] - 1, -1)[full]",
          "predictor[starts[full]] = np.where(parent >= 0, ends[parent], -1)[full]",
          "data/test_data_pack.py"),
    fault("answers are at positions as if they had no prompt", "data/pack.py",
          '"positions": place - (starts - before)[segment],', '"positions": place - starts[segment],',
          "data/test_data_pack.py"),
    # --- rollouts ---
    fault("old log-probs come from the reference", "rollout/annotate.py",
          "old = captured if models.actor is None else over_answers(models.actor, completions, prompts, models.budget)",
          "old = captured if models.actor is None else over_answers(models.reference, completions, prompts, 10**6)",
          ANNOTATE),
    fault("the sampler draws without the temperature", "rollout/draw.py",
          "weights /= spec.temperature", "weights *= 1.0", DRAW),
    fault("the token that ends an answer is left out, so stopping is never learned", "rollout/answer.py",
          "tokens=tuple(self.tokens),", "tokens=tuple(self.tokens[: len(self.tokens) - self.stopped]),",
          "rollout/test_rollout_answer.py", SAMPLER),
    fault("answers are sampled in training mode, with dropout", "rollout/sampler.py",
          "module.training = False", "module.training = True", SAMPLER),
    fault("every epoch takes the answers in the same order", "rollout/source.py",
          "order = np.random.default_rng([plan.seed, number, epoch]).permutation(len(rollouts.completions))",
          "order = np.random.default_rng([plan.seed, number]).permutation(len(rollouts.completions))", SOURCE),
    fault("the ratio of a kept token is upside down", "recipes/inspected_rounds.py",
          "ratio = (now - rollouts.old).exp()", "ratio = (rollouts.old - now).exp()", INSPECTING),
    fault("the margin of a kept pair is that of the rejected answer", "recipes/inspected_pairs.py",
          "margin = np.repeat(ratio[0::2] - ratio[1::2], 2)", "margin = np.repeat(ratio[1::2] - ratio[0::2], 2)",
          INSPECTING),
    # --- objectives, loop and engine ---
    fault("the actor's loss is a mean of means", "objectives/__init__.py",
          "surrogate = losses.clipped_policy(now, batch.old[places], batch.advantages[places], numbers.clip).sum()",
          "surrogate = losses.clipped_policy(now, batch.old[places], batch.advantages[places], numbers.clip).mean()",
          PPO, LOOP),
    fault("the critic learns returns and old values swapped", "objectives/__init__.py",
          "now, old, wanted = values[places], batch.values[places], batch.returns[places]",
          "now, old, wanted = values[places], batch.returns[places], batch.values[places]", PPO),
    fault("entropy is punished", "objectives/__init__.py",
          "total = total - numbers.entropy * output.entropy[places].sum()",
          "total = total + numbers.entropy * output.entropy[places].sum()", PPO),
    fault("the worse answer of a pair is taken for the better", "objectives/__init__.py",
          "better, worse = scores[batch.pairs[:, 0]], scores[batch.pairs[:, 1]]",
          "worse, better = scores[batch.pairs[:, 0]], scores[batch.pairs[:, 1]]", OBJECTIVES),
    fault("terms lose their weight", "loop.py",
          "part = term.total * (term.weight / counts[name])", "part = term.total / counts[name]", LOOP),
    fault("the largest gradient norm is ignored", "engine/local.py",
          "if self._grad_clip is not None and found > self._grad_clip:", "if False:", "engine/test_engine_local.py"),
    # --- whole runs ---
    fault("the reference is the policy in training, so its KL is always 0", "recipes/roles.py",
          "return copy.policy", "return start.policy", "recipes/test_recipes_roles.py"),
    fault("the critic is never saved", "recipes/roles.py",
          "if critic is not None:", "if False:", "recipes/test_recipes_roles.py"),
    fault("a reward model's head is random and never trained", "recipes/reward.py",
          "trained = [*(part for part in parameters if id(part) in trunk), *scalar.score.parameters()]",
          "trained = [part for part in parameters if id(part) in trunk]", "recipes/test_recipes_reward.py"),
)  # fmt: skip
