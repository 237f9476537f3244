//! Torture messages of RFC 4475, by their names there, and what this user agent must answer:
//! a status, or nothing where no answer could be matched or the bytes are no message.

use super::*;

const VIA: &str = "Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bKtorture;rport";
const CONTACT: &str = "Contact: <sip:caller@127.0.0.1:5070>";

/// Start line, headers and body; `@` stands for a usable `Via`, `%C` for a `Contact`.
const CASES: &[(&str, &str, &str)] = &[
    (
        "wsinv",
        "481",
        "INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\n@\nTO :\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\n\
        from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\n  ;\n  tag = 98asjd8\nMaX-fOrWaRdS: 0068\nCall-ID: wsinv.ndaksdj@192.0.2.1\n\
        Content-Length   : 0\ncseq: 0009\n  INVITE\ns :\nNewFangledHeader:   newfangled value\n continued newfangled value\nUnknownHeaderWithUnusualValue: ;;,,;;,;\n\
        m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\n      newvalue ;\n  secondparam ; q = 0.33\n\n",
    ),
    (
        "intmeth",
        "405",
        "!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0\n@\n\
        To: \"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7F\" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>\nFrom: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%=\"x\";tag=_token~1'+`*%!-.\n\
        Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{\nCSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~\nMax-Forwards: 255\nContent-Length: 0\n\n",
    ),
    (
        "esc01",
        "100",
        "INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0\nTo: sip:%75se%72@example.com\nFrom: <sip:I%20have%20spaces@example.net>;tag=938\nMax-Forwards: 87\ni: esc01.239409asdfakjkn23onasd0-3234\n\
        CSeq: 234234 INVITE\n@\n%C\nContent-Length: 0\n\n",
    ),
    (
        "escnull",
        "405",
        "REGISTER sip:example.com SIP/2.0\nTo: sip:null-%00-null@example.com\nFrom: sip:null-%00-null@example.com;tag=839923423\nMax-Forwards: 70\nCall-ID: escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd\nCSeq: 14398234 REGISTER\n\
        @\nContact: <sip:%00@host5.example.com>\nContact: <sip:%00%00@host5.example.com>\nL:0\n\n",
    ),
    (
        "esc02",
        "405",
        "RE%47IST%45R sip:registrar.example.com SIP/2.0\nTo: \"%Z%45\" <sip:resource@example.com>\nFrom: \"%Z%45\" <sip:resource@example.com>;tag=f232jadfj23\nCall-ID: esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf\n\
        @\nCSeq: 29344 RE%47IST%45R\nMax-Forwards: 70\nContact: <sip:alias1@host1.example.com>\nContent-Length: 0\n\n",
    ),
    (
        "lwsdisp",
        "200",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: caller<sip:caller@example.com>;tag=323\nMax-Forwards: 70\nCall-ID: lwsdisp.1234abcd@funky.example.com\nCSeq: 60 OPTIONS\n@\nl: 0\n\n",
    ),
    (
        "dblreq",
        "405",
        "REGISTER sip:example.com SIP/2.0\nTo: sip:j.user@example.com\nFrom: sip:j.user@example.com;tag=43251j3j324\nMax-Forwards: 8\nI: dblreq.0ha0isndaksdj99sdfafnl3lk233412\nContact: sip:j.user@host.example.com\n\
        CSeq: 8 REGISTER\n@\nContent-Length: 0\n\nINVITE sip:joe@example.com SIP/2.0\nt: sip:joe@example.com\n\n",
    ),
    (
        "semiuri",
        "200",
        "OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0\nTo: sip:j_user@example.com\nFrom: sip:caller@example.org;tag=33242\nMax-Forwards: 3\nCall-ID: semiuri.0ha0isndaksdj\nCSeq: 8 OPTIONS\nAccept: application/sdp, application/pkcs7-mime\n@\nl: 0\n\n",
    ),
    (
        "transports",
        "200",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: <sip:caller@example.com>;tag=323\nMax-Forwards: 70\nCall-ID: transports.kijh4akdnaqjkwendsasfdj\nAccept: application/sdp\nCSeq: 60 OPTIONS\n@\n\
        Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf\nVia: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj\nVia: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en\nl: 0\n\n",
    ),
    (
        "mpart01",
        "405",
        "MESSAGE sip:kumiko@example.org SIP/2.0\n@\nMax-Forwards: 70\nRoute: <sip:127.0.0.1:5080>\nIdentity: \"r5mwreLuyDRYBi/0TiPwEsY3rEV\"\nTo: <sip:kumiko@example.org>\nFrom: <sip:fluffy@example.com>;tag=2fb0dcc9\n\
        Call-ID: 3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..\nCSeq: 1 MESSAGE\nContent-Type: multipart/mixed;boundary=7a9cbec02ceef655\nContent-Length: 4\n\nabcd",
    ),
    (
        "unreason",
        "",
        "SIP/2.0 200 = 2**3 * 5**2 \u{43d}\u{43e}\nVia: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\nCall-ID: unreason.1234ksdfak3j2erwedfsASdf\nCSeq: 35 INVITE\nFrom: sip:user@example.com;tag=11141343\n\
        To: sip:user@example.edu;tag=2229\nContent-Length: 0\nContact: <sip:user@host198.example.com>\n\n",
    ),
    (
        "noreason",
        "",
        "SIP/2.0 100 \nVia: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe\nCall-ID: noreason.asndj203insdf99223ndf\nCSeq: 35 INVITE\nFrom: <sip:user@example.com>;tag=39ansfi3\nTo: <sip:user@example.edu>;tag=902jndnke3\nContent-Length: 0\n\n",
    ),
    (
        "badinv01",
        "400",
        "INVITE sip:user@example.com SIP/2.0\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=134161461246\nMax-Forwards: 7\nCall-ID: badinv01.0ha0isndaksdjasdf3234nas\nCSeq: 8 INVITE\n@\n\
        Contact: \"Joe\" <sip:joe@example.org>;;;;\nContent-Length: 0\n\n",
    ),
    (
        "clerr",
        "",
        "INVITE sip:user@example.com SIP/2.0\nMax-Forwards: 80\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=93942939o2\n%C\nCall-ID: clerr.0ha0isndaksdjweiafasdk3\nCSeq: 8 INVITE\n@\nContent-Type: application/sdp\nContent-Length: 9999\n\nv=0\n",
    ),
    (
        "ncl",
        "",
        "INVITE sip:user@example.com SIP/2.0\nMax-Forwards: 254\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=32394234\nCall-ID: ncl.0ha0isndaksdj2193423r542w35\nCSeq: 0 INVITE\n@\n%C\nContent-Length: -999\n\n",
    ),
    (
        "scalar02",
        "400",
        "OPTIONS sip:example.com SIP/2.0\n@\nTo: <sip:user@example.com>\nFrom: <sip:user@example.com>;tag=239232jh3\nCSeq: 36893488147419103232 OPTIONS\nCall-ID: scalar02.23o0pd9vanlq3wnrlnewofjas9ui32\nMax-Forwards: 300\nContent-Length: 0\n\n",
    ),
    (
        "quotbal",
        "400",
        "INVITE sip:user@example.com SIP/2.0\nTo: \"Mr. J. User <sip:j.user@example.com>\nFrom: sip:caller@example.net;tag=93334\nMax-Forwards: 10\nCall-ID: quotbal.aksdj\n%C\nCSeq: 8 INVITE\n@\nContent-Length: 0\n\n",
    ),
    (
        "ltgtruri",
        "",
        "INVITE <sip:user@example.com> SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=39291\nMax-Forwards: 23\nCall-ID: ltgtruri.1@192.0.2.5\nCSeq: 1 INVITE\n@\n%C\nContent-Length: 0\n\n",
    ),
    (
        "lwsruri",
        "",
        "INVITE sip:user@example.com; lr SIP/2.0\nTo: sip:user@example.com;tag=3xfe-9921883-z9f\nFrom: sip:caller@example.net;tag=231413434\nMax-Forwards: 5\nCall-ID: lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423\nCSeq: 2130706432 INVITE\n@\n%C\nContent-Length: 0\n\n",
    ),
    (
        "lwsstart",
        "",
        "INVITE  sip:user@example.com  SIP/2.0\nMax-Forwards: 8\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=8814\nCall-ID: lwsstart.dfknq234oi243099adsdfnawe3@example.com\nCSeq: 1893884 INVITE\n@\n%C\nContent-Length: 0\n\n",
    ),
    (
        "escruri",
        "400",
        "INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=341518\nMax-Forwards: 7\n%C\nCall-ID: escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5\nCSeq: 149209342 INVITE\n@\nContent-Length: 0\n\n",
    ),
    (
        "baddate",
        "100",
        "INVITE sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=2234923\nMax-Forwards: 70\nCall-ID: baddate.239423mnsadf3j23lj42--sedfnm234\nCSeq: 1392934 INVITE\n@\n%C\nDate: Fri, 01 Jan 2010 16:00:00 EST\nContent-Length: 0\n\n",
    ),
    (
        "baddn",
        "400",
        "OPTIONS sip:t.watson@example.org SIP/2.0\n@\nMax-Forwards: 70\nFrom:    Bell, Alexander <sip:a.g.bell@example.com>;tag=43\nTo:      Watson, Thomas <sip:t.watson@example.org>\nCall-ID: baddn.31415@c.example.com\nCSeq:    3923239 OPTIONS\nl: 0\n\n",
    ),
    (
        "badvers",
        "505",
        "OPTIONS sip:t.watson@example.org SIP/7.0\n@\nMax-Forwards: 70\nFrom: A. Bell <sip:a.g.bell@example.com>;tag=qweoiqpe\nTo: T. Watson <sip:t.watson@example.org>\nCall-ID: badvers.31417@c.example.com\nCSeq: 1 OPTIONS\nl: 0\n\n",
    ),
    (
        "mismatch01",
        "400",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=34525\nMax-Forwards: 6\nCall-ID: mismatch01.dj0234sxdfl3\nCSeq: 8 INVITE\n@\nl: 0\n\n",
    ),
    (
        "mismatch02",
        "400",
        "NEWMETHOD sip:user@example.com SIP/2.0\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=34525\nMax-Forwards: 6\nCall-ID: mismatch02.dj0234sxdfl3\nCSeq: 8 INVITE\n@\nl: 0\n\n",
    ),
    (
        "bigcode",
        "",
        "SIP/2.0 4294967301 better not break the receiver\nVia: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe\nCall-ID: bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i\nCSeq: 353494 INVITE\nFrom: <sip:user@example.com>;tag=39ansfi3\nTo: <sip:user@example.edu>;tag=902jndnke3\nContent-Length: 0\n\n",
    ),
    (
        "badbranch",
        "200",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.org;tag=33242\nMax-Forwards: 3\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK\nAccept: application/sdp\nCall-ID: badbranch.sadonfo23i420jv0as0derf3j3n\nCSeq: 8 OPTIONS\nl: 0\n\n",
    ),
    (
        "insuf",
        "",
        "INVITE sip:user@example.com SIP/2.0\nCSeq: 193942 INVITE\n@\nContent-Type: application/sdp\nl: 0\n\n",
    ),
    (
        "unkscm",
        "416",
        "OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=384\nMax-Forwards: 3\nCall-ID: unkscm.nasdfasser0q239nwsdfasdkl34\nCSeq: 3923423 OPTIONS\n@\nContent-Length: 0\n\n",
    ),
    (
        "novelsc",
        "416",
        "OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=384\nMax-Forwards: 3\nCall-ID: novelsc.asdfasser0q239nwsdfasdkl34\nCSeq: 3923423 OPTIONS\n@\nContent-Length: 0\n\n",
    ),
    (
        "bext01",
        "420",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:j_user@example.com\nFrom: sip:caller@example.net;tag=242etr\nMax-Forwards: 6\nCall-ID: bext01.0ha0isndaksdj\nRequire: nothingSupportsThis, nothingSupportsThisEither\nProxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis\nCSeq: 8 OPTIONS\n@\nContent-Length: 0\n\n",
    ),
    (
        "invut",
        "415",
        "INVITE sip:user@example.com SIP/2.0\n%C\nTo: sip:j.user@example.com\nFrom: sip:caller@example.net;tag=8392034\nMax-Forwards: 70\nCall-ID: invut.0ha0isndaksdjadsfij34n23d\nCSeq: 235448 INVITE\n@\nContent-Type: application/unknownformat\nContent-Length: 4\n\nabcd",
    ),
    (
        "multi01",
        "400",
        "INVITE sip:user@company.com SIP/2.0\n%C\n@\nMax-Forwards: 70\nCSeq: 5 INVITE\nCall-ID: multi01.98asdh@192.0.2.1\nCall-ID: multi01.98asdh@192.0.2.2\nFrom: sip:caller@example.com;tag=3413415\nFrom: sip:caller@example.net;tag=2923420123\n\
        To: sip:user@example.com\nTo: sip:other@example.net\nCSeq: 59 INVITE\nContent-Length: 0\n\n",
    ),
    (
        "mcl01",
        "",
        "OPTIONS sip:user@example.com SIP/2.0\n@\nMax-Forwards: 70\nTo: sip:j_user@example.com\nFrom: sip:caller@example.net;tag=3413415\nCall-ID: mcl01.jhn2323j\nContent-Length: 13\nCSeq: 8 OPTIONS\nContent-Length: 5\nContent-Type: text/plain\n\nThere's no way to know how many octets are supposed to be here.\n",
    ),
    (
        "bcast",
        "",
        "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\nVia: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23\nCall-ID: bcast.0384840201234ksdfak3j2erwedfsASdf\nCSeq: 35 INVITE\nFrom: sip:user@example.com;tag=11141343\n\
        To: sip:user@example.edu;tag=2229\nContent-Length: 0\n\n",
    ),
    (
        "zeromf",
        "200",
        "OPTIONS sip:user@example.com SIP/2.0\nTo: sip:user@example.com\nFrom: sip:caller@example.net;tag=3ghsd41\nCall-ID: zeromf.jfasdlfnm2o2l43r5u0asdfas\nCSeq: 39234321 OPTIONS\n@\nMax-Forwards: 0\nContent-Length: 0\n\n",
    ),
    (
        "inv2543",
        "400",
        "INVITE sip:UserB@example.com SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1:5070\nFrom: <sip:+13035551111@ift.client.example.net;user=phone>\nRecord-Route: <sip:UserB@example.com;maddr=ss1.example.com>\nTo: sip:+16505552222@ss1.example.net;user=phone\n\
        Call-ID: inv2543.1717@ift.client.example.com\nCSeq: 56 INVITE\nContent-Length: 0\n\n",
    ),
];

#[test]
fn every_torture_message_gets_the_answer_it_deserves() {
    let mut wrong = Vec::new();
    for (name, expected, text) in CASES {
        // Rust's line continuation eats the indentation; folds are written with their blanks.
        let wire = text
            .replace("@\n", &format!("{VIA}\n"))
            .replace("\n%C\n", &format!("\n{CONTACT}\n"))
            .replace('\n', "\r\n");
        let answers = feed(wire.as_bytes());
        let got = answers.join(" ");
        if got != *expected {
            wrong.push(format!("{name}: expected \"{expected}\", got \"{got}\""));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Cut at every length, no torture message panics the agent or is answered with a success.
#[test]
fn no_truncated_torture_message_panics() {
    for (_, _, text) in CASES {
        let wire = text.replace("@\n", &format!("{VIA}\n")).replace('\n', "\r\n");
        for end in 0..wire.len() {
            crate::sip::fuzz_datagram(&wire.as_bytes()[..end]);
        }
    }
}

fn feed(bytes: &[u8]) -> Vec<String> {
    let peer: SocketAddr = "127.0.0.1:5070".parse().unwrap();
    let config = AgentConfig {
        advertised: "127.0.0.2:5060".parse().unwrap(),
        peer,
        transport: Transport::Udp,
        sources: vec![peer.ip()],
        large_over_tcp: true,
        timers: Timers::default(),
        limits: AgentLimits::default(),
    };
    let mut agent = Agent::new(config, Box::new(|| 7));
    agent.handle_datagram(tokio::time::Instant::now().into_std(), Bytes::copy_from_slice(bytes), peer);
    std::iter::from_fn(|| agent.poll_transmit())
        .map(|(_, bytes)| String::from_utf8_lossy(&bytes).split(' ').nth(1).unwrap_or_default().to_owned())
        .collect()
}
