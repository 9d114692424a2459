"""Writes the chat template fixtures: templates, what they are given, and the text that Jinja renders of it with the settings of
Hugging Face transformers.

    python make_chat_template_fixtures.py [--shared DIR] [--output DIR]

Texts of the templates that real models publish need the shared folder; without it theirs are left as they are.
"""

import argparse
import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

CHAT = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi there!\n"},
    {"role": "assistant", "content": "Hello.\n\nHow are you?"}, {"role": "user", "content": "Fine \u00e9\u4e2d\U0001f600. 'q' \"d\" <b> & \\"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather", "description": "The weather at a place \u2014 \"now\".",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "enum": ["here", "there"]}, "days": {"type": "integer", "default": 1.5}},
                       "required": ["place"]},
    },
}
CALLS = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "abcdefghi", "function": {"name": "weather", "arguments": {"place": "here", "days": 2, "deep": {"a": [1, None, True, 0.5]}}}},
        {"type": "function", "id": "ABCDEFGHI", "function": {"name": "weather", "arguments": {}}}]},
    {"role": "tool", "content": "sunny", "name": "weather", "tool_call_id": "abcdefghi"},
    {"role": "tool", "content": "rain", "name": "weather", "tool_call_id": "ABCDEFGHI"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSunny, then rain."}, {"role": "user", "content": "Thanks"},
]
DATA = {"numbers": [3, 1, 2], "words": ["pear", "Apple", "fig", "apple"], "table": {"b": 2, "a": 1, "C": 3}, "text": "  A b-c  d\te\nf ", "nothing": None,
        "yes": True, "no": False, "half": 0.5, "big": 1e20, "people": [{"name": "Ada", "age": 36, "tags": ["x"]}, {"name": "bob", "age": 7}, {"name": "Cy", "age": 36, "tags": []}],
        "nested": {"a": {"b": [10, 20, 30]}}, "unicode": "\u00c9t\u00e9 stra\u00dfe \u4e2d", "empty": "", "zero": 0, "quote": "it's \"so\"\n"}

# Expressions, each rendered as {{ ... }}.
EXPRESSIONS = """
1 + 2 * 3 - 4 // 3 % 5
1 ~ 2 * 3 ~ 'x'
7 // 2 ~ ' ' ~ -7 // 2 ~ ' ' ~ 7 % -3 ~ ' ' ~ -7 % 3 ~ ' ' ~ 7 / 2
2 ** 10 ~ ' ' ~ 2 ** -1 ~ ' ' ~ -2 ** 2 ~ ' ' ~ 1.5 * 2
1 == 1.0 and true == 1 and 'a' != 'b' and not (1 > 2)
(1 < 2 < 3) ~ ' ' ~ (3 > 2 > 2)
none is none and nothing is none
yes or undefined_name
no and undefined_name.x
undefined_name
undefined_name | default('d') ~ empty | default('e', true) ~ empty | d('f')
'in' in 'string' and 2 in numbers and 'a' in table and 5 not in numbers
numbers[0] ~ numbers[-1] ~ numbers[1:] ~ numbers[:-1] ~ numbers[::-1] ~ numbers[::2]
text[2:5] ~ '|' ~ text[-3:] ~ '|' ~ text[::-1] ~ '|' ~ text[100:]
unicode[1] ~ unicode[-1] ~ unicode[:4] ~ unicode | length
words[9]
table.b ~ table['a'] ~ table.zz ~ table.get('zz', 'none') ~ table.get('zz')
nested.a.b[1] ~ nested['a']['b'][-1]
table.items() | map('join', '=') | list
table.keys() | list ~ table.values() | list
table | items | map('join', '=') | list
table | dictsort | map('last') | list
table | dictsort(case_sensitive=true, by='value', reverse=true) | map('first') | list
words | sort ~ words | sort(reverse=true) ~ words | sort(case_sensitive=true)
people | sort(attribute='age') | map(attribute='name') | join(', ')
people | map(attribute='name') | map('upper') | list
people | map(attribute='tags', default='-') | list
people | selectattr('age', 'equalto', 36) | map(attribute='name') | list
people | selectattr('tags', 'defined') | list | length
people | rejectattr('tags', 'defined') | list
people | selectattr('tags') | map(attribute='name') | list
numbers | select('odd') | list ~ numbers | reject('odd') | list ~ numbers | select('gt', 1) | list
numbers | sum ~ numbers | max ~ numbers | min ~ people | sum(attribute='age')
words | unique | list ~ words | first ~ words | last
words | join ~ words | join('-') ~ numbers | join('+')
numbers | reverse | list ~ 'abc' | reverse
numbers | batch(2, 0) | list
text.strip() ~ '|' ~ text.lstrip() ~ '|' ~ text.rstrip() ~ '|' ~ text | trim
'xxaxx'.strip('x') ~ 'xyaxy' | trim('xy') ~ 'aab'.lstrip('a') ~ 'baa'.rstrip('a')
text.split() ~ text.split(' ') ~ 'a,b,c'.split(',', 1) ~ 'a,b,c'.rsplit(',', 1) ~ ' a b c '.split(none, 1)
'a\\nb\\r\\nc\\n'.splitlines() ~ 'a\\nb\\n'.splitlines(true)
'abc'.startswith('ab') ~ 'abc'.endswith(('x', 'c')) ~ 'abc'.startswith('b')
unicode.upper() ~ unicode.lower() ~ unicode | title ~ unicode | capitalize ~ 'aBc dEf'.swapcase()
'a-b-c'.replace('-', '+') ~ 'a-b-c'.replace('-', '', 1) ~ 'a-b' | replace('-', '=') ~ 'ab'.replace('', '.')
'abcabc'.find('c') ~ 'abcabc'.rfind('c') ~ 'abc'.find('z') ~ 'abcabc'.count('bc') ~ 'abc'.index('b')
'-'.join(words) ~ 'pre-fix'.removeprefix('pre-') ~ 'pre-fix'.removesuffix('-fix')
'a=b=c'.partition('=') | join('|') ~ 'a=b=c'.rpartition('=') | join('|') ~ 'abc'.partition('=') | join('|') ~ '7'.zfill(3) ~ '-7'.zfill(4)
'12'.isdigit() ~ 'a1'.isalnum() ~ 'ab'.isalpha() ~ ' '.isspace() ~ 'AB'.isupper() ~ 'ab'.islower() ~ ''.isdigit()
('12' | int + 1) ~ '1.5' | float ~ 'x' | int ~ 'x' | int(7) ~ 3.7 | int ~ -3 | abs ~ 2.5 | round ~ 2.567 | round(2) ~ 2.1 | round(0, 'ceil')
[1, 'a', none, true, 0.5, [], {}, {'k': 'v'}, (1, 2)] | length
[1, 'a', none, true, 0.5, [], {}, {'k': 'v'}, "it's"]
quote ~ [quote]
people | tojson
table | tojson(indent=2)
people | tojson(indent=4)
quote | tojson ~ unicode | tojson ~ unicode | tojson(ensure_ascii=true)
[] | tojson ~ {} | tojson ~ [[]] | tojson(indent=1) ~ none | tojson ~ true | tojson ~ big | tojson ~ 1.0 | tojson ~ half | tojson
table | tojson(sort_keys=true) ~ table | tojson(separators=(',', ':'))
'<a href="x">&\\'' | e ~ '<b>' | safe ~ '<b>' | string
'a\\nb\\n\\nc' | indent ~ '|' ~ 'a\\nb' | indent(2, true) ~ '|' ~ 'a\\n\\nb' | indent(1, false, true) ~ '|' ~ 'a\\nb\\n' | indent('> ')
'one two three' | wordcount ~ 'abc' | length ~ table | count ~ 'abc' | list ~ 'abc' | first
text is string and numbers is iterable and table is mapping and 1 is number and numbers is sequence
1 is integer ~ 1.0 is float ~ true is boolean ~ true is integer ~ yes is true ~ no is false ~ 1 is true
nothing is defined ~ undefined_name is undefined ~ undefined_name is not defined ~ table.zz is defined ~ table.a is defined
3 is odd ~ 4 is even ~ 9 is divisibleby 3 ~ 9 is divisibleby(2) ~ 'a' is in 'abc' ~ 1 is eq 1 ~ 1 is ne 2 ~ 2 is gt 1 ~ 2 is lt 1
'AB' is upper ~ 'ab' is lower ~ range is callable ~ text is callable ~ 'a' is sameas 'a'
'yes' if yes else 'no' ~ ('a' if no) ~ ('x' if no else 'y' if no else 'z')
range(3) | list ~ range(1, 10, 3) | list ~ range(5, 0, -2) | list
dict(a=1, b=2) ~ dict(a=1).a
{'a': 1, 'b': [1, 2]}['b'][1] ~ [1, 2, 3][1] ~ ('a', 'b')[0] ~ {}
'a' 'b' "c" ~ '\\u00e9\\x41\\t\\\\ \\'' ~ "\\"" ~ 1_000 ~ 1e3 ~ 1.5e-7
(numbers + [4]) ~ 'ab' * 3 ~ [0] * 2 ~ (1, 2) | list
big ~ ' ' ~ 1e15 ~ ' ' ~ 1e16 ~ ' ' ~ 0.1 ~ ' ' ~ 1e-5 ~ ' ' ~ 100.0
(not yes) ~ (not no or yes)
- 3 | abs ~ (-3) | abs
text | upper | trim | replace('A', 'Z') | length
none ~ true ~ false ~ None ~ True
people[0].name.upper()[0] ~ people[-1]['name']
[yes, no].count(true) ~ numbers.index(2)
unicode in [unicode] ~ (1 in [true]) ~ ('1' == 1)
zero | default('d') ~ zero or 'z' ~ zero | default('d', true)
'%' in '5%' ~ 'a'~1~none
""".strip().split("\n")

# Whole templates: name, source, what they are given beside the chat.
TEMPLATES = [
    ("loop", "{% for m in messages %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.length }}{% if loop.first %}F{% endif %}{% if loop.last %}L{% endif %} {{ m.role }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ loop.nextitem.role if not loop.last }} {{ loop.cycle('a', 'b') }} {{ loop.changed(m.role) }} {{ loop.depth }}\n{% endfor %}", {}),
    ("loop filter and else", "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | trim }};{% else %}none{% endfor %}{% for x in [] %}{{ x }}{% else %}empty{% endfor %}{% for m in messages if m.role == 'tool' %}x{% else %}no tool{% endfor %}", {}),
    ("break and continue", "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}!", {}),
    ("scopes", "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% set ns = namespace(n=0, s='') %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{% with y = 5, z = 6 %}{{ y }}{{ z }}{% set x = 3 %}{% endwith %}{{ y }}{{ x }}", {}),
    ("unpacking", "{% for k, v in table.items() %}{{ k }}={{ v }},{% endfor %}{% for (a, b) in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}{% set a, b = 'x', 'y' %}{{ b }}{{ a }}{% for k in table %}{{ k }}{% endfor %}{% for c in 'abc' %}{{ c }}.{% endfor %}", {}),
    ("macros", "{% macro greet(name, greeting='Hello', mark=none) %}{{ greeting }}, {{ name }}{{ mark or '.' }}{% endmacro %}{{ greet('you') }}{{ greet('all', mark='!') }}{{ greet(greeting='Hi', name='me') }}{% macro twice() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call twice() %}x{% endcall %}{% macro outer(n) %}{% if n > 0 %}{{ n }}{{ outer(n - 1) }}{% endif %}{% endmacro %}{{ outer(4) }}{{ greet('a') | upper }}", {}),
    ("set block and filter block", "{% set body %}  text {{ messages[0].role }}\n{% endset %}[{{ body | trim }}]{% set up | upper | trim %} ab {% endset %}[{{ up }}]{% filter upper | replace('A', 'o') %}banana{% endfilter %}", {}),
    ("elif", "{% for i in range(5) %}{% if i == 0 %}zero{% elif i == 1 %}one{% elif i is odd %}odd{% else %}even{% endif %} {% endfor %}", {}),
    ("recursive loop", "{% for n in tree recursive %}{{ n.v }}{% if n.c %}({{ loop(n.c) }}){% endif %}{{ loop.depth }}{% endfor %}", {"tree": [{"v": 1, "c": [{"v": 2, "c": [{"v": 3}]}, {"v": 4}]}, {"v": 5}]}),
    ("raw", "a {% raw %}{{ x }} {% y %} {# z #}{% endraw %} b\n  {%- raw -%}  c  {%- endraw -%}  d", {}),
    ("white space of blocks", "a\n  {% if true %}\n  b\n  {% endif %}\nc {% if true %} d {% endif %} e\n\t{# note #}\nf{# x #} g\n   {{ 1 }}\n  {{- 2 -}}  \n h\n{%- if true -%}\n  i\n{%- endif %}\n\nj\n{%+ if true %}\nk\n  {%+ endif +%}\nl\n", {}),
    ("white space at the ends", "\n\n  {% set a = 1 %}  \n{{ a }}\n\n", {}),
    ("line ends", "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc{{ 'x\r\ny' }}", {}),
    ("comments", "{# one\n two #}a{#- b -#}  c {#+ d #}\n  {# e +#}\nf", {}),
    ("generation", "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.role }}{% endif %}\n{% endfor %}", {}),
    ("tokens", "{{ bos_token }}{{ eos_token }}{{ unk_token }}{% if add_generation_prompt is defined and add_generation_prompt %}G{% endif %}{% if tools is not none %}T{% endif %}{% if tools %}t{% endif %}{% if documents %}d{% endif %}", {}),
    ("nested data", "{% for p in people %}{{ p.name }}:{% for t in p.tags %}{{ t }}{% endfor %}{{ p['age'] }};{% endfor %}{{ nested.a.b | join('/') }}{{ nested }}", {}),
    ("string building", "{{ '<' + messages[0]['role'] + '>' + messages[0]['content'] | trim + '</' ~ 1 ~ '>' }}{{ ('a' + 'b') * 2 }}{{ messages | length }}{{ messages[1:] | length }}{{ messages[-1].content[:4] }}", {}),
    ("members named like methods", "{{ odd.items is callable }}{{ odd['items'] is callable }}{{ odd['keys'] }}{{ odd.values() | list }}", {"odd": {"keys": "k", "other": 1}}),
    ("undefined members", "{{ messages[0].zz }}{% for x in messages[0].zz %}a{% endfor %}{% if messages[0].zz %}b{% endif %}{{ messages[0].zz is defined }}{{ messages[0].get('zz') }}{{ messages[0].zz | default('d') }}{% set q = undefined_name %}{{ q is defined }}", {}),
    ("spaces in tags", "{%if true%}a{%endif%}{{'b'}}{{ 'c'   }}{%   for   x   in   [1]   %}{{x}}{%endfor%}{{ [\n 1,\n 2,\n] }}{{ {'a':1,} }}", {}),
    ("strings with tags in them", "{{ '{{ x }} {% y %} {# z #} }} %}' }}{% set s = \"%}\" %}{{ s }}{{ '#}' }}", {}),
    # In the manner of what families publish.
    ("inst", "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<S>>\\n' + system_message + '\\n<</S>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[I] ' + content.strip() + ' [/I]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}", {}),
    ("headers", "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{#- the system message first #}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n{{- \"<|h|>system<|/h|>\\n\\n\" }}\n{%- if tools is not none %}\n    {{- \"Environment: x\\n\" }}\n    {%- for t in tools %}\n        {{- t | tojson(indent=4) }}\n        {{- \"\\n\\n\" }}\n    {%- endfor %}\n{%- endif %}\n{{- date_string }}{{- system_message }}{{- \"<|eot|>\" }}\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|h|>' + message['role'] + '<|/h|>\\n\\n'+ message['content'] | trim + '<|eot|>' }}\n    {%- elif 'tool_calls' in message %}\n        {%- for call in message.tool_calls %}\n            {%- set tool_call = call.function %}\n            {%- for arg_name, arg_val in tool_call.arguments | items %}\n                {{- arg_name + '=' ~ arg_val | tojson }}\n                {%- if not loop.last %}{{- \", \" }}{%- endif %}\n            {%- endfor %}\n            {{- '{\"name\": \"' + tool_call.name + '\", ' }}\n            {{- tool_call.arguments | tojson }}\n            {{- \"}\" }}\n        {%- endfor %}\n    {%- elif message.role == \"tool\" or message.role == \"ipython\" %}\n        {{- \"<|h|>ipython<|/h|>\\n\\n\" }}\n        {%- if message.content is mapping or message.content is iterable %}\n            {{- message.content | tojson }}\n        {%- else %}\n            {{- message.content }}\n        {%- endif %}\n        {{- \"<|eot|>\" }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|h|>assistant<|/h|>\\n\\n' }}\n{%- endif %}\n", {}),
    ("tools and ids", "{%- if messages[0][\"role\"] == \"system\" %}\n    {%- set system_message = messages[0][\"content\"] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}\n{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n{%- for message in loop_messages %}\n    {%- if not (message.role == \"tool\" or message.role == \"tool_results\" or (message.tool_calls is defined and message.tool_calls is not none)) %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message[\"role\"] == \"user\" %}\n        {%- if tools is not none and (message == user_messages[-1]) %}\n            {{- \"[T] [\" }}\n            {%- for tool in tools %}\n                {%- set tool = tool.function %}\n                {{- '{\"type\": \"function\", \"function\": {' }}\n                {%- for key, val in tool.items() if key != \"return\" %}\n                    {%- if val is string %}\n                        {{- '\"' + key + '\": \"' + val + '\"' }}\n                    {%- else %}\n                        {{- '\"' + key + '\": ' + val|tojson }}\n                    {%- endif %}\n                    {%- if not loop.last %}\n                        {{- \", \" }}\n                    {%- endif %}\n                {%- endfor %}\n                {{- \"}}\" }}\n                {%- if not loop.last %}{{- \", \" }}{%- else %}{{- \"]\" }}{%- endif %}\n            {%- endfor %}\n            {{- \"[/T]\" }}\n        {%- endif %}\n        {%- if loop.last and system_message is defined %}\n            {{- \"[I] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/I]\" }}\n        {%- else %}\n            {{- \"[I] \" + message[\"content\"] + \"[/I]\" }}\n        {%- endif %}\n    {%- elif message.tool_calls is defined and message.tool_calls is not none %}\n        {{- \"[C] [\" }}\n        {%- for tool_call in message.tool_calls %}\n            {%- set out = tool_call.function|tojson %}\n            {{- out[:-1] }}\n            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}\n                {{- raise_exception(\"ids have nine characters\") }}\n            {%- endif %}\n            {{- ', \"id\": \"' + tool_call.id + '\"}' }}\n            {%- if not loop.last %}{{- \", \" }}{%- else %}{{- \"]\" + eos_token }}{%- endif %}\n        {%- endfor %}\n    {%- elif message[\"role\"] == \"assistant\" %}\n        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- elif message[\"role\"] == \"tool_results\" or message[\"role\"] == \"tool\" %}\n        {%- if message.content is defined and message.content.content is defined %}\n            {%- set content = message.content.content %}\n        {%- else %}\n            {%- set content = message.content %}\n        {%- endif %}\n        {{- '[R] {\"content\": ' + content|string + \", \" }}\n        {{- '\"call_id\": \"' + message.tool_call_id + '\"}[/R]' }}\n    {%- else %}\n        {{- raise_exception(\"unknown role\") }}\n    {%- endif %}\n{%- endfor %}\n", {}),
    ("thinking", "{%- if tools %}\n    {{- '<s>system\\n' }}\n    {%- if messages[0].role == 'system' %}\n        {{- messages[0].content + '\\n\\n' }}\n    {%- endif %}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n{%- else %}\n    {%- if messages[0].role == 'system' %}\n        {{- '<s>system\\n' + messages[0].content + '</s>\\n' }}\n    {%- endif %}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n        {{- '<s>' + message.role + '\\n' + content + '</s>' + '\\n' }}\n    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n        {%- if message.reasoning_content is string %}\n            {%- set reasoning_content = message.reasoning_content %}\n        {%- else %}\n            {%- if '</think>' in content %}\n                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n            {%- endif %}\n        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n            {{- '<s>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n        {%- else %}\n            {{- '<s>' + message.role + '\\n' + content }}\n        {%- endif %}\n        {%- if message.tool_calls %}\n            {%- for tool_call in message.tool_calls %}\n                {%- if (loop.first and content) or (not loop.first) %}\n                    {{- '\\n' }}\n                {%- endif %}\n                {%- if tool_call.function %}\n                    {%- set tool_call = tool_call.function %}\n                {%- endif %}\n                {{- '<c>\\n{\"name\": \"' }}\n                {{- tool_call.name }}\n                {{- '\", \"arguments\": ' }}\n                {%- if tool_call.arguments is string %}\n                    {{- tool_call.arguments }}\n                {%- else %}\n                    {{- tool_call.arguments | tojson }}\n                {%- endif %}\n                {{- '}\\n</c>' }}\n            {%- endfor %}\n        {%- endif %}\n        {{- '</s>\\n' }}\n    {%- elif message.role == \"tool\" %}\n        {%- if loop.first or (messages[loop.index0 - 1].role != \"tool\") %}\n            {{- '<s>user' }}\n        {%- endif %}\n        {{- '\\n<r>\\n' }}\n        {{- content }}\n        {{- '\\n</r>' }}\n        {%- if loop.last or (messages[loop.index0 + 1].role != \"tool\") %}\n            {{- '</s>\\n' }}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<s>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}", {"enable_thinking": False}),
    ("plain turns", "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content | trim }}\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}", {}),
    ("content parts", "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% elif part['type'] in ['image', 'image_url'] %}<image>{% endif %}{% endfor %}{% endif %}|{% endfor %}", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "?"}]}, {"role": "user", "content": "x"}]}),
]

# Templates that fail when they are rendered.
FAILING = [
    "{{ messages.zz.y }}", "{{ undefined_name.x }}", "{{ undefined_name + 'x' }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ raise_exception('no') }}",
    "{{ messages.append(1) }}", "{{ 'a' < 1 }}", "{{ none + 1 }}", "{{ messages() }}", "{{ undefined_name() }}", "{% for x in 5 %}{% endfor %}", "{% set a, b = [1] %}",
    "{% set x = 1 %}{% set x.y = 2 %}", "{{ 'abc'.split('') }}", "{{ [1, 'a'] | sort }}", "{{ numbers | sum(attribute='x') }}", "{{ '' ~ range(1000000) | list | length }}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{{ 'x'.join([1]) }}", "{{ nothing.x.y }}", "{{ 5 | length }}", "{{ range | tojson }}",
    "{{ 1 in 5 }}", "{{ 1 in 'a' }}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ 'abc'.index('z') }}", "{{ table.update({}) }}",
]
# Templates that cannot be read.
BROKEN = [
    "{% if %}x{% endif %}", "{% if true %}x", "{{ 1 + }}", "{{ (1 }}", "{{ 'abc }}", "{% for x [1] %}{% endfor %}", "{% endif %}", "{% unknown %}", "{{ a b }}", "{# x",
    "{{ 1 | nofilter }}", "{{ 1 is notest }}", "{% set %}", "{% macro %}{% endmacro %}", "{{ [1, 2 }}", "{{ {'a' 1} }}", "{% for x in [] %}{% endif %}", "{{ x. }}", "{{ f(a=1 b=2) }}",
    "{{ 1 ? 2 }}", "{{", "{%", "{% if true %}{% else %}{% elif 1 %}{% endif %}", "{{ ) }}",
]


def render(source: str, context: dict) -> dict:
    """The text of a template, or the kind of its failure."""
    try:
        template = _compile_jinja_template(source)
    except jinja2.TemplateError as error:
        return {"broken": type(error).__name__}
    try:
        return {"text": template.render(**context)}
    except (jinja2.TemplateError, TypeError, ValueError, ZeroDivisionError, RecursionError, OverflowError, AttributeError) as error:
        return {"failed": str(error)[:80]}


def main() -> None:
    here = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser()
    parser.add_argument("--shared", type=pathlib.Path, default=here.parent / "shared")
    parser.add_argument("--output", type=pathlib.Path, default=here / "Tests/Fixtures/chat")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    cases = []

    def add(name: str, source: str, context: dict) -> None:
        result = render(source, {"tools": None, "documents": None, **tokens, **context})
        cases.append({"name": name, "template": source, "context": context, **result})

    for expression in EXPRESSIONS:
        add(expression, "{{ " + expression + " }}", DATA)
    for name, source, context in TEMPLATES:
        chats = [(CHAT, None, True), (CHAT[1:3], None, False), (CALLS, [TOOL, TOOL], True)]
        for messages, tools, prompts in chats:
            given = {"messages": messages, "tools": tools, "add_generation_prompt": prompts, **DATA, **context}
            # Only what the template looks at.
            given = {key: value for key, value in given.items() if key in source}
            add(name, source, given)
    for source in FAILING + BROKEN:
        add("refused", source, {"messages": CHAT, "numbers": [1], "nothing": None, "table": {}} )
        assert "text" not in cases[-1], source
    for case in cases:
        if case["name"] != "refused" and "text" not in case and not any(word in case["template"] for word in ["raise_exception", "previtem"]):
            print("fails:", case["name"][:150], case.get("failed"), case.get("broken"))
    lines = ",\n".join(json.dumps(case, ensure_ascii=True, separators=(",", ":")) for case in cases)
    (arguments.output / "templates.json").write_text("[\n" + lines + "\n]\n")

    folder = arguments.shared / "tokenizers"
    if not folder.exists():
        print(f"{folder} is absent: the expected texts of real templates are left as they are")
        return
    real = []
    for name in ["smollm2", "qwen2.5"]:
        source = (folder / name / "chat_template.jinja").read_text()
        for messages, tools in [(CHAT, None), (CHAT[1:], None), (CALLS, None), (CALLS, [TOOL]), (CHAT, [TOOL, TOOL])]:
            for prompts in [True, False]:
                context = {"messages": messages, "tools": tools, "add_generation_prompt": prompts}
                text = _compile_jinja_template(source).render(documents=None, **tokens, **context)
                real.append({"name": name, "context": context, "text": text})
    (arguments.output / "real.json").write_text(json.dumps(real, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
