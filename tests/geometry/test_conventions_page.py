import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"


def test_the_snippets_of_the_page_say_what_happens():
    text = PAGE.read_text(encoding="utf-8")
    # Only the code: a closing fence would otherwise be taken for expected output. Line numbers stay right.
    code = re.sub(r"(?ms)^```$.*?^```python$|\A.*?^```python$|^```$.*\Z", lambda m: "\n" * m[0].count("\n"), text)
    snippets = doctest.DocTestParser().get_doctest(code, {}, PAGE.name, str(PAGE), 0)
    assert len(snippets.examples) > 30
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(snippets, out=report.append)
    assert result.failed == 0, "".join(report)
