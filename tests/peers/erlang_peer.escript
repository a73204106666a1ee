#!/usr/bin/env escript
%% A DTLS client or server of Erlang's ssl:
%% escript erlang_peer.escript client HOST PORT x509 TRUST | psk IDENTITY HEX
%% escript erlang_peer.escript server HOST PORT x509 CERTIFICATE KEY | psk IDENTITY HEX
%% (With "version" alone it tells its versions.)
%% The client sends each line of stdin once the handshake is done, writes what comes back to stdout,
%% and says goodbye at the end of stdin. The server echoes, to one client after another.

-define(SECONDS, 30000).
-define(WAIT_MS, 500). % for an answer, before the next line is looked for

main(["version"]) ->
    ok = application:load(ssl),
    {ok, Version} = application:get_key(ssl, vsn),
    io:format("ssl ~s of OTP ~s~n", [Version, erlang:system_info(otp_release)]);
main([Role, Host, Port, Kind | Secret]) ->
    ok = logger:set_primary_config(level, none),
    ok = io:setopts(standard_io, [binary]),
    {ok, _} = application:ensure_all_started(ssl),
    {ok, Address} = inet:parse_address(Host),
    Family = case tuple_size(Address) of 8 -> [inet6]; 4 -> [inet] end,
    Options = [binary, {active, false}, {mode, binary}, {protocol, dtls}, {versions, ['dtlsv1.2']}]
        ++ Family ++ secret(Role, Kind, Secret),
    run(Role, Address, list_to_integer(Port), Options).

run("client", Address, Port, Options) ->
    Self = self(),
    case ssl:connect(Address, Port, Options, ?SECONDS) of
        {ok, Socket} ->
            spawn_link(fun() -> lines(Self) end),
            talk(Socket);
        {error, Reason} ->
            io:format("error: ~p~n", [Reason]),
            halt(1)
    end;
run("server", Address, Port, Options) ->
    {ok, Listener} = ssl:listen(Port, [{ip, Address}, {reuseaddr, true} | Options]),
    io:format("serving~n"),
    serve(Listener).

%% Lines of stdin as messages, and its end.
lines(To) ->
    case io:get_line("") of
        eof -> To ! eof;
        Line -> To ! {line, Line}, lines(To)
    end.

talk(Socket) ->
    receive
        eof -> ssl:close(Socket);
        {line, Line} -> ok = ssl:send(Socket, Line), answer(Socket), talk(Socket)
    end.

%% What comes back; nothing where there is another line before.
answer(Socket) ->
    case ssl:recv(Socket, 0, ?WAIT_MS) of
        {ok, Answer} -> io:put_chars(Answer);
        {error, timeout} ->
            case erlang:process_info(self(), message_queue_len) of
                {_, 0} -> answer(Socket);
                _ -> ok
            end
    end.

serve(Listener) ->
    {ok, Socket} = ssl:transport_accept(Listener),
    spawn(fun() -> shake(Socket) end),
    serve(Listener).

shake(Socket) ->
    case ssl:handshake(Socket, ?SECONDS) of
        {ok, Ready} -> echo(Ready);
        {error, Reason} -> io:format("error: ~p~n", [Reason])
    end.

echo(Socket) ->
    case ssl:recv(Socket, 0) of
        {ok, Message} -> ok = ssl:send(Socket, Message), echo(Socket);
        {error, _} -> ssl:close(Socket)
    end.

secret("client", "x509", [Trust]) ->
    {ok, Text} = file:read_file(Trust),
    [{'Certificate', Trusted, not_encrypted}] = public_key:pem_decode(Text),
    %% ssl asks the application about a certificate that signs itself: the very same one will do.
    Judge = fun(Shown, {bad_cert, selfsigned_peer}, _) ->
                    case public_key:pkix_encode('OTPCertificate', Shown, otp) of
                        Trusted -> {valid, []};
                        _ -> {fail, selfsigned_peer}
                    end;
               (_, {bad_cert, _} = Reason, _) -> {fail, Reason};
               (_, {extension, _}, State) -> {unknown, State};
               (_, _, State) -> {valid, State}
            end,
    [{cacertfile, Trust}, {verify, verify_peer}, {verify_fun, {Judge, []}},
     {server_name_indication, "localhost"}];
secret("server", "x509", [Certificate, Key]) ->
    [{certfile, Certificate}, {keyfile, Key}];
secret(Role, "psk", [Identity, Hex]) ->
    Key = binary:decode_hex(list_to_binary(Hex)),
    %% A client's lookup is asked about the server's hint, a server's about an identity.
    Lookup = fun(psk, Who, _) ->
        case Role =:= "client" orelse Who =:= list_to_binary(Identity) of
            true -> {ok, Key};
            false -> error
        end
    end,
    Suites = ssl:filter_cipher_suites(
        ssl:cipher_suites(anonymous, 'dtlsv1.2'), % to ssl, those with PSK are
        [{key_exchange, fun(Exchange) -> lists:member(Exchange, [psk, dhe_psk, ecdhe_psk]) end}]),
    [{psk_identity, Identity}, {user_lookup_fun, {Lookup, <<>>}}, {ciphers, Suites}].
