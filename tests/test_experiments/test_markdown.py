import pytest

from experiments.markdown import write_table


def test_tables_are_replaced_in_place(tmp_path):
    path = tmp_path / 'a.md'
    path.write_text('before\n<!-- begin of det -->\nold\n<!-- end of det -->\n'
                    'between\n<!-- begin of seg -->\n<!-- end of seg -->\n')
    for _ in range(2):
        write_table('| new |\n', path, 'det')
        assert path.read_text() == (
            'before\n<!-- begin of det -->\n\n| new |\n\n<!-- end of det -->\n'
            'between\n<!-- begin of seg -->\n<!-- end of seg -->\n')
    with pytest.raises(ValueError, match='no lines .*begin of cls'):
        write_table('| new |\n', path, 'cls')


def test_new_file(tmp_path):
    path = tmp_path / 'a.md'
    write_table('| x |\n', path)
    assert path.read_text() == (
        '<!-- begin of tables -->\n\n| x |\n\n<!-- end of tables -->\n')
