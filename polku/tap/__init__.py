"""Events of a running pipeline, for those who look: samples that nobody waits for, and that end by themselves.

General layout:

- `request` is what somebody asks for, and what comes back;
- `reservoir` keeps a fair sample of what passes; `redaction` takes out what nobody may see;
- `point` is where a part shows its events, `taps` are those who look at the parts of one process.

A part has an attribute `tap`, which is None while nobody looks: that is all that it costs then.
"""
