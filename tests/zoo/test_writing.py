"""Blocks of tokens and the ends of rows."""

from zoo.reading import Row
from zoo.writing import Writing


def rows(count=2):
    return [Row(index, [7]) for index in range(count)]


def test_a_row_ends_at_a_stop_which_is_no_part_of_it():
    made, writing, seen = rows(), Writing(9, stop={5}, stream=lambda row, new: seen.append((row, new)), drafts=3), []
    assert writing.give(made, [[1], [2]], step=False) == [0, 1]
    assert writing.give(made, [[3, 5, 4], [4, 6, 8, 9]]) == [1]
    assert [row.new for row in made] == [[1, 3], [2, 4, 6, 8, 9]] and [row.text for row in made] == [
        [7, 1, 3],
        [7, 2, 4, 6, 8, 9],
    ]
    assert [(row.stopped, row.done, row.steps) for row in made] == [(True, True, 1), (False, False, 1)]
    assert seen == [(0, [1]), (1, [2]), (0, [3]), (1, [4, 6, 8, 9])]
    # row 0 used one draft and the stop after it, row 1 three drafts and a token more
    assert writing.accepted == [2, 1, 1]


def test_a_stop_alone_is_not_streamed():
    made, seen = rows(1), []
    assert Writing(9, stop={5}, stream=lambda row, new: seen.append(new)).give(made, [[5]], step=False) == []
    assert made[0].new == seen == [] and made[0].stopped and made[0].steps == 0


def test_the_limit_and_the_caller_end_a_row_inside_a_block():
    made, writing = rows(), Writing(3, drafts=4)
    assert writing.give(made, [[1, 2], [1, 2, 3, 4]]) == [0]
    assert [row.new for row in made] == [[1, 2], [1, 2, 3]] and [row.stopped for row in made] == [False, False]
    assert writing.give(made[:1], [[3]]) == [] and made[0].done and not made[0].stopped
    asked, made = [], rows(1)
    until = Writing(9, until=lambda new: asked.append(list(new)) or new[-1] == 2, drafts=4)
    assert until.give(made, [[1, 2, 3]]) == [] and asked == [[1], [1, 2]]
    assert made[0].new == [1, 2] and made[0].stopped and until.accepted == [1, 0, 0, 0]
