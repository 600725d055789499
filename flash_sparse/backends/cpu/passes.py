"""The passes over a strip of scores between two products: hiding, softmax, its derivative, dropout.

Scores stand keys by queries: a row is a key, and its lanes are the queries of a strip. What belongs to a query, its
maximum, its sum, its mask, is then a vector that stays in registers while the keys go by.
"""

from llvmlite import ir

from flash_sparse.backends.cpu.vectors import INT32, INT64, VECTOR_BYTES, VECTORS, vector_function


@vector_function
def hide(vectors, scores, scores_row, rows, first, low, high, number):
    """Minus infinity where a query does not see the key: those from `low` on and below `high` it does.

    Args:
        scores: address of (rows, strip); the first row is key `first`.
        low, high: addresses of 32-bit integers, one for each query.
    """
    builder = vectors.builder
    lows, highs = vectors.word_strip(low), vectors.word_strip(high)
    infinity = vectors.constant(float("-inf"))

    def row(index, carried):
        key, at = carried
        keys = vectors.spread(builder.trunc(key, INT32), vectors.words)
        hidden = []
        for score, low, high in zip(vectors.strip(at), lows, highs, strict=True):
            seen = builder.and_(builder.icmp_signed(">=", keys, low), builder.icmp_signed("<", keys, high))
            hidden.append(builder.select(seen, score, infinity))
        vectors.store_strip(hidden, at)
        return builder.add(key, ir.Constant(INT64, 1)), builder.add(at, scores_row)

    vectors.loop(rows, [first, scores], row)


@vector_function
def cap_scores(vectors, scores, scores_row, rows, factor):
    """Turn scores into tanh(factor x score).

    Args:
        scores: address of (rows, strip), a row every `scores_row` bytes.
        factor: number.
    """
    builder = vectors.builder
    factor = vectors.spread(factor)

    def row(_, carried):
        (at,) = carried
        vectors.store_strip([vectors.tanh(builder.fmul(score, factor)) for score in vectors.strip(at)], at)
        return [builder.add(at, scores_row)]

    vectors.loop(rows, [scores], row)


def _softmax_step(masked: bool):
    def softmax_step(vectors, scores, rows, maximum, total, rescale, scale):
        """Turn scores into probabilities, up to a factor of each query, and take them into its sums.

        Args:
            scores: address of (rows, strip).
            maximum, total: addresses of the queries' greatest score so far and of the sum of
                2 ** (scale x (score - maximum)).
            rescale: address where to write what earlier results are to be multiplied by.
            scale: number above 0.
        """
        builder = vectors.builder
        scale = vectors.spread(scale)
        row_bytes = ir.Constant(INT64, VECTORS * VECTOR_BYTES)
        before = vectors.strip(maximum)

        def highest(_, carried):
            at, *highest = carried
            rows = zip(vectors.strip(at), highest, strict=True)
            return [builder.add(at, row_bytes), *(vectors.maximum(score, old) for score, old in rows)]

        _, *after = vectors.loop(rows, [scores, *before], highest)
        vectors.store_strip(after, maximum)
        if masked:  # where nothing has been seen yet, minus infinity would be subtracted from itself
            infinity = vectors.constant(float("-inf"))
            nothing = [builder.fcmp_ordered("==", value, infinity) for value in after]
            zero = vectors.constant(0.0)
            after = [builder.select(empty, zero, value) for empty, value in zip(nothing, after, strict=True)]
        factors = [
            vectors.exp2(builder.fmul(builder.fsub(old, new), scale)) for old, new in zip(before, after, strict=True)
        ]
        vectors.store_strip(factors, rescale)

        def exponentials(_, carried):
            at, *sums = carried
            rows = zip(vectors.strip(at), after, strict=True)
            row = [vectors.exp2(builder.fmul(builder.fsub(score, shift), scale), flush=masked) for score, shift in rows]
            vectors.store_strip(row, at)
            added = [builder.fadd(old, new) for old, new in zip(sums[:VECTORS], row, strict=True)]
            return [builder.add(at, row_bytes), *sums[VECTORS:], *added]

        # First these rows' sums, every other row in one: small numbers that are added one by one to a large total would
        # lose their last digits.
        zeros = [vectors.constant(0.0)] * (2 * VECTORS)
        _, *sums = vectors.loop(rows, [scores, *zeros], exponentials)
        sums = [builder.fadd(sums[i], sums[VECTORS + i]) for i in range(VECTORS)]
        triples = zip(vectors.strip(total), factors, sums, strict=True)
        vectors.store_strip([vectors.multiply_add(*triple) for triple in triples], total)

    return vector_function(softmax_step)


softmax_step, masked_softmax_step = _softmax_step(False), _softmax_step(True)


def _gradient_step(masked: bool, capped: bool = False):
    def gradient_step(vectors, scores, gradients, row_bytes, rows, logsumexp, delta, scale, log2_e):
        """Turn scores into probabilities, and the gradients of the probabilities into those of the scores.

        Args:
            scores, gradients: addresses of (rows, strip), a row every `row_bytes`.
            logsumexp, delta: addresses of one number for each query: minus the logarithm of the sum of
                e ** (scale x score), minus infinity for a query that sees nothing, and what is subtracted from its
                gradients.
            scale, log2_e: numbers.

        Capped scores come as those tanh, and their gradients are of what tanh was taken of.
        """
        builder = vectors.builder
        shifts, deltas = vectors.strip(logsumexp), vectors.strip(delta)
        scale, log2_e = vectors.spread(scale), vectors.spread(log2_e)

        def slope(score):
            """The derivative of tanh, 1 - tanh ** 2; 0 where minus infinity hides the score."""
            one = vectors.constant(1.0)
            score = vectors.at_least(score, vectors.constant(-1.0))
            return builder.fmul(builder.fsub(one, score), builder.fadd(one, score))

        def row(_, carried):
            at, gradient_at = carried
            row_scores = vectors.strip(at)
            probabilities = [
                vectors.exp2(builder.fmul(vectors.multiply_add(score, scale, shift), log2_e), flush=masked)
                for score, shift in zip(row_scores, shifts, strict=True)
            ]
            vectors.store_strip(probabilities, at)
            differences = [
                builder.fsub(gradient, delta)
                for gradient, delta in zip(vectors.strip(gradient_at), deltas, strict=True)
            ]
            products = [builder.fmul(p, g) for p, g in zip(probabilities, differences, strict=True)]
            if capped:
                products = [builder.fmul(p, slope(score)) for p, score in zip(products, row_scores, strict=True)]
            vectors.store_strip(products, gradient_at)
            return builder.add(at, row_bytes), builder.add(gradient_at, row_bytes)

        vectors.loop(rows, [scores, gradients], row)

    return vector_function(gradient_step)


gradient_step, masked_gradient_step = _gradient_step(False), _gradient_step(True)
capped_gradient_step = _gradient_step(True, capped=True)


@vector_function
def drop(vectors, numbers, row_bytes, rows, query_words, query_words_2, key_words, key_words_2, threshold, factor):
    """Multiply by `factor` what stays, with chance threshold / 2 ** 24, and set to 0 what is dropped.

    The same hash of the same words as in Triton's kernels (`dropout_keep` there): the same elements are dropped.

    Args:
        numbers: address of (rows, strip), a row every `row_bytes`.
        query_words, query_words_2, key_words, key_words_2: addresses of the words of the first query and key.
        threshold: integer.
        factor: number.
    """
    builder = vectors.builder
    queries, queries_2 = vectors.word_strip(query_words), vectors.word_strip(query_words_2)
    limit = vectors.spread(builder.trunc(threshold, INT32), vectors.words)
    factor = vectors.spread(factor)

    def scramble(word, shift, multiplier):
        if shift:
            word = builder.xor(word, builder.lshr(word, vectors.constant(shift, vectors.words)))
        return builder.mul(word, vectors.constant(multiplier, vectors.words))

    def row(index, carried):
        at, key_at, key_at_2 = carried
        key = vectors.spread(vectors.load(key_at, 0, INT32), vectors.words)
        key_2 = vectors.spread(vectors.load(key_at_2, 0, INT32), vectors.words)
        results = []
        for number, query, query_2 in zip(vectors.strip(at), queries, queries_2, strict=True):
            word = scramble(builder.xor(query, key), 0, 0x7FEB352D)
            word = builder.xor(word, builder.lshr(word, vectors.constant(15, vectors.words)))
            word = scramble(builder.xor(builder.add(word, query_2), key_2), 0, 0x846CA68B)
            word = scramble(word, 16, 0x9E3779B1)
            stays = builder.icmp_unsigned("<", builder.lshr(word, vectors.constant(8, vectors.words)), limit)
            results.append(builder.select(stays, builder.fmul(number, factor), vectors.constant(0.0)))
        vectors.store_strip(results, at)
        four = ir.Constant(INT64, 4)
        return builder.add(at, row_bytes), builder.add(key_at, four), builder.add(key_at_2, four)

    vectors.loop(rows, [numbers, key_words, key_words_2], row)


@vector_function
def scale_rows(vectors, numbers, rows, factors, number):
    """Multiply each row of (rows, strip) by the strip at `factors`."""
    builder = vectors.builder
    strip = vectors.strip(factors)

    def row(_, carried):
        (at,) = carried
        products = [builder.fmul(number, factor) for number, factor in zip(vectors.strip(at), strip, strict=True)]
        vectors.store_strip(products, at)
        return [builder.add(at, ir.Constant(INT64, VECTORS * VECTOR_BYTES))]

    vectors.loop(rows, [numbers], row)


@vector_function
def divide_rows(vectors, numbers, rows, divisors, number):
    """Divide each row of (rows, strip) by the strip at `divisors`."""
    builder = vectors.builder
    strip = vectors.strip(divisors)

    def row(_, carried):
        (at,) = carried
        quotients = [builder.fdiv(number, divisor) for number, divisor in zip(vectors.strip(at), strip, strict=True)]
        vectors.store_strip(quotients, at)
        return [builder.add(at, ir.Constant(INT64, VECTORS * VECTOR_BYTES))]

    vectors.loop(rows, [numbers], row)


@vector_function
def dot_rows(vectors, left, right, rows, sums, number):
    """At `sums`, a strip: the sum over rows of left x right, (rows, strip) each; rows come in multiples of a strip."""
    builder = vectors.builder
    row_bytes = ir.Constant(INT64, VECTORS * VECTOR_BYTES)
    block = ir.Constant(INT64, VECTORS * vectors.lanes)
    zeros = [vectors.constant(0.0)] * VECTORS

    def add_block(_, carried):  # the error of one long sum would grow with its length
        left_at, right_at, *totals = carried
        left_at, right_at, *part = vectors.loop(block, [left_at, right_at, *zeros], row)
        return [left_at, right_at, *(builder.fadd(*pair) for pair in zip(totals, part, strict=True))]

    def row(_, carried):
        left_at, right_at, *sums = carried
        triples = zip(vectors.strip(left_at), vectors.strip(right_at), sums, strict=True)
        return [builder.add(left_at, row_bytes), builder.add(right_at, row_bytes),
                *(vectors.multiply_add(*triple) for triple in triples)]  # fmt: skip

    _, _, *results = vectors.loop(builder.sdiv(rows, block), [left, right, *zeros], add_block)
    vectors.store_strip(results, sums)
