"""LiveKit: a media server whose rooms clients and agents enter by themselves, over WebRTC.

``provider`` is the contract, ``options`` what an operator may set, ``client`` the calls to the server with their time limits and retries,
``tokens`` who may enter which room, ``webhooks`` what the server tells, ``echo_agent`` an agent that answers with the caller's own voice.

Options: ``url`` (needed), ``public_url``, ``agent_name``, ``echo_agent_url``, ``on_agent_absent``, and times in whole seconds:
``join_timeout_s``, ``agent_timeout_s``, ``request_timeout_s``, ``departure_timeout_s``. Secrets: ``api_key`` and ``api_secret``, and while
keys are being changed ``previous_api_key`` and ``previous_api_secret``, with which webhooks may be signed still.

How LiveKit behaves, and what follows from it:

* A join token opens the door as often as one likes until it expires and for a minute more; on joining, the server gives out another
  token that is good for ten. To remove a participant revokes neither. So a room is one session's, its name is never used for another, and
  a session's end is DeleteRoom. The server should run with ``room.auto_create: false``: else a removed user's token makes the room again.
* CreateRoom is get-or-create by name, and changes nothing in a room that is there. A room that was removed or lost comes back under its
  name with another ``sid``.
* A dispatch to an agent is tried once: with no worker there it is lost, though CreateRoom succeeds. Only a participant of kind AGENT with
  a published track proves an agent.
* A full room refuses whoever has another identity; a second join with the same identity puts the first one out. Agents are not counted.

Limits: one provider object talks to one address; LiveKit Cloud's failover between regions is not used.
"""
