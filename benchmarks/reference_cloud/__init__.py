"""The reference cloud: an OpenAI-compatible server that stands in where no cloud is configured.

It is not a language model. It recognises questions of reasoning-gym's generators, computes their
answers, and behaves like a cloud otherwise: price, latency, rate limits, faults, wrong answers.

    app        the HTTP server                 faults     what can go wrong, and how often
    replies    what is said to a message       latency    when it is said
    solve      question text → right answer    mistakes   right answer → a plausible wrong one
"""
