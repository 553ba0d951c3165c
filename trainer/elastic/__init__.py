"""An elastic group: agents that meet at a rendezvous and keep one worker's ranks each.

messages.py   what agents and rendezvous tell each other
meeting.py    who works with whom, and when a group is formed anew; pure
server.py     the rendezvous: a meeting behind a port
link.py       an agent's connection to it, made anew whenever it breaks
sockets.py    keep-alive
ranks.py      rank processes, forked from one that has imported everything
agent.py      a worker: meets, runs its ranks, meets again

torchrun does the same with a store that everybody polls. Here the rendezvous sees a connection
break, so a lost worker is known at once; it can be lost itself without harm, since the agents tell
a new one where they stand; and ranks start in a moment, since their imports are done.
Nothing here imports torch: an agent and a rendezvous start in 0.2 s and take 20 MB.
"""
