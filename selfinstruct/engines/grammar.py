"""Sentences from a seeded grammar: English nonsense, grammatical, and of great variety."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

_T = TypeVar("_T")
Toss = Callable[[], float]
"""The next random number, from 0 to 1, 1 excluded."""
Production = str | tuple[Any, ...]
"""Words, or words and lists of productions to choose from."""


def instruction(toss: Toss) -> str:
    return capital(say("instruction", toss))


def sentences(most: int, toss: Toss) -> str:
    return " ".join([capital(say("sentence", toss)) for _ in range(1 + int(toss() * most))])


def sized(first: str, then: str, low: int, high: int, toss: Toss, without: frozenset[str] = frozenset()) -> str:
    """From ``low`` to ``high`` words (``high`` is 2 or more): a production of the first symbol, then of the other while
    words are missing, none with a content word of ``without``. Empty where that cannot be had."""
    said: list[str] = []
    count = 0
    for _ in range(200 + high):
        more = capital(say(then if said else first, toss))
        length = len(more.split())
        if not without.isdisjoint(content(more)):
            continue
        if count + length > high:
            said, count = [], 0
            continue
        said.append(more)
        count += length
        if count >= low:
            return " ".join(said)
    return ""


def content(text: str) -> frozenset[str]:
    """The words of four letters or more, which say what a text is about."""
    return frozenset(re.findall("[a-z]{4,}", text.lower()))


def say(symbol: str, toss: Toss) -> str:
    return _expanded(pick(_grammar()[symbol], toss), toss)


def pick(options: Sequence[_T], toss: Toss) -> _T:
    return options[int(toss() * len(options))]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _expanded(production: Production, toss: Toss) -> str:
    if isinstance(production, str):
        return production
    said = []
    for part in production:
        if part.__class__ is list:
            part = part[int(toss() * len(part))]
            if part.__class__ is tuple:
                part = _expanded(part, toss)
        said.append(part)
    return "".join(said)


@cache
def _grammar() -> dict[str, list[Production]]:
    """``GRAMMAR`` by symbol, its slots replaced by the lists that they name."""
    texts = {
        symbol: [production.strip() for line in body.split("\n") for production in line.split(";")]
        for symbol, body in re.findall(r"^(\w+) = (.*(?:\n  .*)*)", GRAMMAR, re.MULTILINE)
    }
    texts["nouns"] = [_plural(noun) for noun in texts["noun"]]
    texts["trades"] = [_plural(trade) for trade in texts["trade"]]
    ready: dict[str, list[Production]] = {symbol: [] for symbol in texts}
    for symbol, productions in texts.items():
        for text in productions:
            parts = re.split(r"\{(\w+)\}", text)  # words, slot, words, slot, …, words
            linked = tuple(ready[part] if at % 2 else part for at, part in enumerate(parts) if at % 2 or part)
            ready[symbol].append(text if len(parts) == 1 else linked)
    return ready


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    return noun[:-1] + "ies" if re.search(r"[^aeiou]y$", noun) else noun + "s"


LABELS = (
    ("Positive", "Negative", "Neutral"),
    ("Yes", "No"),
    ("True", "False"),
    ("Spam", "Not spam"),
    ("Formal", "Informal"),
    ("Fact", "Opinion"),
    ("Urgent", "Can wait"),
    ("Joy", "Anger", "Fear", "Sadness"),
    ("Sports", "Politics", "Science", "Culture", "Business"),
    ("Question", "Request", "Complaint", "Praise"),
    ("Beginner", "Intermediate", "Advanced"),
    ("Past", "Present", "Future"),
)

# Large lists and nested slots, so that a run of a hundred thousand steps still finds something new.
# symbol = production; production; …; a slot {symbol} is filled with one of its productions, an empty one counts.
# Symbols that follow "a" hold only words that begin with a consonant.
GRAMMAR = """
instruction = {make} {work} about {subject} for {readers}{limit}.
  {make} {work} in which {someone} and {someone} {event} {where}{limit}.
  {explain} {aspect} {subject} to {readers}{limit}.
  {explain} how {someone} might use {thing} to {deed} {where}.
  {compare} {aspect} {subject} with {aspect} {subject}{limit}.
  {compare} {thing} and {thing} as gifts for {someone}{limit}.
  {rewrite} the {adjective} {text} about {subject} for {someone} {where}.
  {rewrite} this {mood} {text} from {someone} to {someone}, but keep {thing}{limit}.
  {sum} the {text} on {subject} for {someone} who must {deed}.
  {list} {number} {adjective} ways to {deed} with {thing} {where}.
  {list} {number} questions about {subject} that {someone} should ask {where}.
  {list} {number} {adjective} names for {venue} {where} that sells {thing}{limit}.
  {plan} {outing} {where} for {readers}, with time to {deed}{limit}.
  {plan} {outing} for {someone} who loves {food}, never eats {food} and lives {where}.
  {decide} whether the {text} about {subject} sounds {mood}, {mood} or {mood}.
  {decide} which of these {nouns} belongs {where} and which {someone} should {deed}.
  {find} every {grammar} in the {text} that {someone} sent about {thing}.
  {find} the mistake {someone} makes in this {text} about {aspect} {subject}.
  {advise} {someone} who wants to {deed} but has only {thing} and {number} {units}.
  {advise} {readers} on {aspect} {subject}{limit}.
  {imagine} that {someone} finds {thing} {where}, and {tell} what happens next.
  {imagine} {place} without {subject} and {tell} how {readers} would {deed}.
  {work_out} how many {units} {someone} needs to {deed} with {number} {nouns}.
  {work_out} the cost of {number} {adjective} {nouns} and {thing} for {readers} {where}.
  {translate} the {adjective} {text} about {thing} into {language}{limit}.
  {argue} {side} the claim that {subject} helps {someone} to {deed}{limit}.
  {ask} why {subject} matters to {someone} {where}?
  {ask} what {someone} could learn about {subject} from {thing}?
  {ask} which {adjective} {noun} would help {someone} to {deed} {where}, and why?
  {ask} how {aspect} {subject} changed {quality} for {someone} {where}?
  Given {thing}, {thing} and {thing}, {tell} how {someone} could {deed}.
  As {someone}, {answer} {someone} who complains about {thing} {where}.
  Turn the {mood} {text} about {subject} into {work} that would please {someone} {where}.
  Sort {thing}, {thing} and {thing} by {quality} for {someone}{limit}.
  Suppose {someone} must {deed} {where}: which {number} {adjective} things could go wrong for {readers}?
  {pose} {someone} {where} and tell {readers} about {aspect} {subject}{limit}.
  {go_on} the story of {someone} who tried to {deed} with {thing} {where}.
  Match each {adjective} {noun} {where} to {someone} who needs it to {deed}.
more = Also {tell} how {someone} might use {thing} to {deed}.
  Then {tell} what {someone} could learn about {subject} from {thing}.
  Take into account that {someone} must {deed} with {thing} and within {number} {units}.
  Keep in mind that {someone} {thought} that {subject} {mattered} {where}.
  Name {number} reasons why {subject} {mattered} to {readers}, and which of them {someone} would reject.
  Do so without {thing}, but with {thing} that {someone} {did} {where}.
  Assume that {someone} must {deed} but cannot go {where}.
  Address {readers} who {thought} that {someone} would {deed}.
  Give a reason for each step that {someone} must take to {deed} {where}.
  Mention {thing}, {thing} and {thing}, ordered by their {quality} for {someone}.
  Where {someone} and {someone} disagree about {subject}, settle it and {tell} why.
  End with {mood} advice to {readers} on {aspect} {subject}.
  Contrast the result with {aspect} {subject} {where}, from the view of {someone}.
  Leave out {subject} and whatever {someone} {did} {where}, unless {readers} need it to {deed}.
  Work through a case in which {someone} must choose between {thing} and {thing} {where}.
  Show which {adjective} {nouns} would no longer help if {someone} had to {deed} {where}.
  Weigh the {quality} of {thing} against the {quality} of {thing} for {readers}.
  Consider what changes for {readers} once {subject} and {subject} are no longer to be had {where}.
  Start from {aspect} {subject}, and only then turn to {someone} who could not {deed}.
  Let {someone} object {where}, and answer the objection for {readers}.
brief = Describe {thing}.; Explain {field} to {readers}.; Compare {field} with {field}.
  Why did {subject} matter {where}?
  Name {number} {adjective} {nouns}.; What is the {quality} of {thing}?; How would {someone} {deed}?; Invent {thing}.
  Thank {someone} for {thing}.; Sell {thing} to {someone}.; Praise {someone} {where}.; Where can {readers} {deed}?
  List {number} uses of {thing}.; Ask {someone} about {subject}.; Translate "{adjective} {noun}" into {language}.
  Should {someone} {deed}?; Sum up {subject}.; Rhyme about {thing}.
pose = Pretend to be; Speak as; Pose as; Write as; Imagine you are; Act like
go_on = Continue; Finish; Extend; Retell; Begin; Tell; Shorten; Invent
make = Write; Compose; Draft; Create; Prepare; Produce; Invent; Come up with; Put together; Design; Make up; Devise
explain = Explain; Describe; Outline; Clarify; Teach; Spell out; Unpack; Present; Set out
compare = Compare; Contrast; Weigh; Set side by side; Measure; Rank
rewrite = Rewrite; Rephrase; Shorten; Simplify; Polish; Tone down; Expand; Edit; Restyle; Tidy up
sum = Summarise; Condense; Boil down; Abridge; Give the gist of; Extract the main point of; Retell
list = List; Name; Suggest; Give; Propose; Offer; Collect; Note down; Recommend; Provide
plan = Plan; Organise; Schedule; Arrange; Work up; Lay out; Prepare
decide = Decide; Judge; Determine; Say; Tell me; Settle; Find out
find = Find; Mark; Point out; Spot; Identify; Pick out; Quote; Correct
advise = Advise; Help; Guide; Counsel; Coach; Encourage; Warn
imagine = Imagine; Suppose; Assume; Pretend; Consider
tell = say; tell; describe; narrate; explain; report; recount; write down
work_out = Work out; Calculate; Estimate; Compute; Figure out; Show step by step
translate = Translate; Render; Bring over; Put; Carry over
argue = Argue; Debate; Reason; Write a speech; Make a case; Collect arguments
side = for; against; both for and against; politely against; strongly for
ask = Can you explain; I wonder; Do you know; Could you tell me; In your view,; Please say; Would you show; Honestly,
answer = answer; reply to; calm down; reassure; write back to; thank; console
limit = ; ; ; ; , in {number} sentences; , using no more than {number} words; , and mention {thing}
  , without the word "{noun}"; , in a {mood} tone; , as {someone} would; , and end with a question about {subject}
  , beginning with {thing}; , so that {someone} can {deed}; , with {number} {adjective} details
  , while avoiding {subject}; , in simple {language}
work = a letter; an essay; a poem; a short story; a speech; a dialogue; a recipe; a riddle; a fable
  a product description; a press release; a book review; a job advert; a diary entry; a lesson; a quiz; a toast
  a sonnet; a haiku; a complaint; an apology; an invitation; a news report; a travel guide; a bedtime story
  a limerick; a checklist; a newsletter; a monologue; a blog post; a eulogy; a campaign slogan; a set of rules
  a short scene; a thank-you note; a user manual; a ghost story; an obituary; a proverb; a folk song; a horoscope
  a memo; a petition; an interview; a sermon; a sales pitch; a glossary; a crossword clue; a weather forecast
  a legend; a farewell message; a birthday card; a trailer script; a reading list
text = letter; article; review; message; speech; note; report; poem; e-mail; notice; essay; story; transcript; advert
  leaflet; interview; diary; memo; headline; post; complaint; recipe; contract; sermon; lecture; chapter; abstract
  announcement; warning
readers = children; beginners; pensioners; students; parents; tourists; farmers; nurses; teachers; engineers
  teenagers; shopkeepers; commuters; volunteers; neighbours; investors; lawyers; gardeners; cyclists; sailors
  librarians; newcomers; managers; apprentices; grandparents; hikers; collectors; voters; patients; researchers
  players; customers; refugees; soldiers; actors; bakers; pilots; night-shift workers; first-time buyers; shy people
  busy families; language learners; amateur cooks; small-town mayors; museum visitors; dog owners; sceptical readers
  {adjective} {trades}; {adjective} {trades}; {adjective} {trades}; {adjective} {trades} from {place}; people {where}
  fans of {subject}; {trades} {where}
someone = a {adjective} {trade}; a {adjective} {trade}; a {mood} {trade}; a {trade} from {place}
  the {trade} of {place}; my {adjective} {kin}; your {kin}; a {kin} {where}; a {adjective} {animal}
  two {adjective} {trades}; the {adjective} {trade}
thing = a {adjective} {noun}; a {adjective} {noun}; a {material} {noun}; the {adjective} {noun}
  a {noun} made of {material}; a {noun} from {place}; {number} {adjective} {nouns}
  a {noun} that belongs to {someone}; an old {noun}; a broken {noun}
subject = {field}; {field}; {field} in {place}; {field} among {trades}; the {quality} of {field}; {adjective} {field}
  {field} and {field}; {field} after {era}; {field} during {era}; the {adjective} {noun}; {adjective} {nouns}
aspect = the history of; the ethics of; the cost of; the benefits of; the dangers of; the future of
  the science behind; the basics of; common errors in; the language of; the politics of; the myths about
  the beauty of; the rules of; the psychology of; the everyday use of; the economics of; the vocabulary of
  recent changes in; the role of {thing} in; the limits of
where = in {place}; near {place}; in a {adjective} {site}; at the {adjective} {site}; outside {place}
  on the way to {place}; during {era}; in the {site} of {place}; behind a {adjective} {site}; after {era}
  on a {adjective} {day}; far from {place}
event = quarrel over {thing}; exchange {thing} for {thing}; meet by chance; share {food}; discuss {subject}; get lost
  fall in love; repair {thing}; win a prize for {field}; hide {thing}; learn {field}; open {venue}; try to {deed}
  celebrate {era}
outing = a {adjective} weekend; a {adjective} dinner; a walking tour; a school trip; a {adjective} festival
  a wedding; a workshop; a book club evening; a fundraising day; a {adjective} picnic; a family reunion
  a training week; a treasure hunt; a study group
venue = a bakery; a bookshop; a {adjective} café; a florist; a repair shop; a market stall; an antique dealer
  a toy shop; a tea house; a corner store; a {adjective} workshop; a hotel kiosk; a museum shop; a bicycle store
  a pottery
deed = save water; learn {language}; cook {food}; repair {thing}; sell {nouns}; win a debate; sleep better
  reduce waste; grow {food}; find {thing}; teach {field}; move to {place}; start {venue}; raise money; write {work}
  choose {thing}; lower the rent; fix a budget; train a {animal}; clean {thing}; study {field}; stay calm
  keep a promise; build {thing}; replace {thing}; cross {place}; meet {readers}; run a marathon; plan {outing}
  collect {nouns}; explain {field}; store {food}; borrow {thing}; protect {readers}; thank {someone}; compare prices
  visit {place}; forgive {someone}; describe {thing}; organise {outing}; avoid traffic; memorise {work}
  measure {thing}
units = hours; minutes; days; weeks; euros; litres; kilograms; metres; kilometres; pages; spoons; buckets; tickets
  coins; tiles; bricks
number = two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; fifteen; twenty; thirty; forty; fifty
  sixty; eighty
grammar = verb; adjective; proper noun; adverb; comma splice; metaphor; date; place name; question; cliché
  spelling mistake; pronoun; passive sentence; exaggeration; opinion; number; compliment; contradiction; idiom
  foreign word; repetition; threat; promise; joke
quality = weight; age; price; beauty; speed; durability; height; comfort; safety; usefulness; popularity; rarity
  loudness; warmth; sweetness; honesty; difficulty; value; simplicity; freshness; length; colour; taste; risk; size
  origin; elegance; fairness
mood = cheerful; gloomy; formal; sarcastic; hopeful; furious; grateful; neutral; nostalgic; proud; bored; surprised
  tender; bitter; playful; solemn; doubtful; jealous; relieved; polite; rude; dreamy; confident; humble; suspicious
  warm; cold; desperate
language = French; Spanish; German; Latin; Swahili; Turkish; Polish; Welsh; Hindi; Korean; Dutch; Greek; Finnish
  Portuguese; Arabic; Japanese; Italian; Norwegian; Czech; Hungarian; Icelandic; Vietnamese; Persian; Basque; Catalan
  Tamil; Irish; Danish; Romanian
kin = sister; brother; cousin; grandmother; grandfather; neighbour; landlord; roommate; niece; nephew; teacher; boss
  stepfather; twin; daughter; son; godmother; classmate; colleague; best friend; tenant; guest; rival; mentor
  penfriend; babysitter
animal = fox; parrot; tortoise; donkey; goat; whale; beaver; sparrow; kitten; wolf; hedgehog; penguin; camel; rabbit
  squirrel; pony; lizard; raven; bear; puppy; swan; mouse; dolphin; peacock; badger; moose; crab; spider; beetle
  salmon; falcon; toad; mule; lynx
day = Monday; Sunday; morning; night; afternoon; holiday; birthday; winter day; train ride; evening; Friday
  market day; voyage; walk
era = the war; the harvest; the flood; winter; the Renaissance; the holidays; the Middle Ages; the strike
  the election; the drought; the industrial revolution; the exam season; the pandemic; the rainy season
  the gold rush; the festival; Ramadan; the Bronze Age; the last century; the summer break; the moon landing
  the ice age; the tournament; lent; the colonial period; the long night
material = wood; glass; copper; wool; paper; clay; leather; silver; bamboo; marble; rubber; steel; silk; wax; bronze
  straw; porcelain; linen; concrete; plastic; stone; brass; cork; velvet; tin; cardboard; felt; granite; canvas; gold
  jade; denim; plaster
place = Lima; Oslo; Nairobi; Kyoto; Lisbon; Toronto; Cairo; Mumbai; Sydney; Dublin; Bogota; Prague; Seoul; Athens
  Havana; Quebec; Hanoi; Vienna; Lagos; Naples; Tallinn; Marrakesh; Bergen; Porto; Kraków; Manila; Texas; Bavaria
  Patagonia; Siberia; Tuscany; Wales; Provence; Alaska; Crete; Sicily; Zanzibar; Tasmania; Andalusia; Normandy
  Scotland; Kerala; Anatolia; Flanders; Jamaica; Iceland; Chile; Ghana; Nepal; Peru; Kenya; Malta; Cyprus; Bolivia
  Senegal; Mongolia; Portugal; Morocco; Ireland; Finland; Vietnam; Cuba; Boston; Chicago; Memphis; Seattle; Denver
  Leeds; York; Bath; Glasgow; Cardiff; Geneva; Zurich; Turin; Ghent; Bruges; Utrecht; Malmö; Samarkand; Isfahan
  Damascus; Beirut; Petra; Luxor; Timbuktu; Dakar; Accra; Durban; Harare; Lusaka; Kampala; Addis Ababa; Muscat
site = village; harbour; library; station; kitchen; valley; forest; school; castle; desert; museum; hospital; factory
  garden; market; theatre; prison; island; monastery; stadium; lighthouse; suburb; orchard; cellar; bridge; courtyard
  laboratory; meadow; canyon; attic; vineyard; ferry; tunnel; greenhouse; barn; mill; square; tower; swamp; beach
  glacier; quarry; office; hotel; chapel; airport
food = rice; lentils; cheese; mushrooms; cabbage; salmon; honey; garlic; apples; bread; noodles; spinach; walnuts
  beans; olives; beef; tofu; pumpkin; eggs; oats; ginger; tomatoes; cherries; chickpeas; potatoes; yoghurt; figs
  barley; onions; lemons; carrots; dumplings; pears; trout; basil; rhubarb; chestnuts; couscous; mangoes; leeks
  quinoa; peppers; plums; turnips; dates; cucumbers; maize; sardines
trade = baker; carpenter; surgeon; librarian; violinist; detective; plumber; beekeeper; tailor; journalist; monk
  farmer; chemist; sculptor; referee; gardener; shepherd; translator; dentist; locksmith; miner; potter; barber
  pilot; judge; lawyer; nurse; poet; smuggler; clockmaker; biologist; mayor; waiter; butcher; weaver; blacksmith
  diplomat; cartographer; sailor; spy; magician; goalkeeper; roofer; cobbler; banker; geologist; programmer
  historian; florist; jeweller; bricklayer; soldier; curator; fortune teller; bus driver; chimney sweep
  street singer; school teacher; museum guard; taxi driver; tour guide; juggler; hunter; lumberjack; pharmacist
  physicist; printer; puppeteer; ranger; saddler; stonemason; tanner; vet; wrestler; zookeeper; lifeguard; conductor
  ghostwriter; hermit; knight; merchant; novelist
noun = lantern; kettle; violin; ladder; mirror; blanket; teapot; hammer; candle; bicycle; basket; telescope; pillow
  clock; saddle; bottle; notebook; carpet; drum; needle; wheel; wardrobe; typewriter; helmet; ring; button; shovel
  raft; tent; kite; whistle; lamp; trumpet; suitcase; bucket; chair; puzzle; wallet; scarf; vase; bell; rope; stamp
  coin; chessboard; printer; toaster; curtain; ticket; statue; boat; flute; magnet; battery; barrel; feather; hat
  knife; spoon; jar; locket; marble; parcel; microscope; rucksack; sandal; thermometer; tractor; trolley; window
  wristwatch; zipper; calendar; camera; cart; cradle; cushion; dagger; desk; dictionary; doll; door; fan; fountain
  glove; guitar; harp; key; loom; mask; mattress; medal; motor; napkin; paddle; pencil; piano; pipe; plate; pocket
  poster; pump; quilt; razor; ribbon; robot; saw; screw; shelf lamp; shield; sieve; skate; sledge; sofa; stove
  sweater; table; tap; tool; torch; towel; toy; tray; turbine; uniform; valve; veil; waistcoat; wheelbarrow; wig
  wreath; yo-yo; sundial; snow globe; letter opener; fishing rod; rocking chair; birdcage; doorbell
  bookend; pocket knife; garden gnome; picnic table
field = beekeeping; tidal energy; jazz; chess; pottery; grammar; probability; recycling; genetics; astronomy
  carpentry; democracy; insurance; nutrition; photography; cryptography; gardening; opera; statistics; mountaineering
  folklore; taxation; vaccination; archery; meditation; calligraphy; robotics; irrigation; typography; fencing
  public transport; solar power; organic farming; machine learning; fair trade; urban planning; water polo
  human rights; mental health; street art; oral history; time management; first aid; food safety; free speech
  game theory; child care; space travel; wind power; paper folding; bird watching; stand-up comedy; home insulation
  online banking; data privacy; remote work; sign language; ballroom dancing; number theory; plate tectonics
  ocean currents; copyright; inflation; migration; volcanoes; glaciers; earthquakes; fossils; dialects; punctuation
  etiquette; superstition; dreams; friendship; loneliness; humour; patience; courage; memory; sleep; hunger; trust
  boredom; curiosity; ambition; gossip; silence; justice; luck; tourism; fishing; brewing; knitting; sewing; baking
  cheese making; wine tasting; tea ceremonies; puppetry; juggling; card tricks; sailing; cycling; skiing; swimming
  judo; rowing; boxing; cricket; gymnastics; yoga; marathon running; parachuting; surfing; golf; electricity
  magnetism; gravity; light; sound; heat; friction; radioactivity; photosynthesis; evolution; digestion; immunity
  blood; algebra; geometry; calculus; logic; set theory; sorting algorithms; databases; compilers; spreadsheets
  encryption; web design; search engines; haiku; satire; tragedy; biography; rhyme; metaphor; translation; journalism
  advertising; rhetoric; debate; storytelling; screenwriting; barter; banking; credit; auctions; trade unions
  pensions; rent control; minimum wages; start-ups; franchising; bookkeeping; logistics; dentistry; surgery
  anaesthesia; nursing; hygiene; allergies; vitamins; antibiotics; physiotherapy; ageing; childbirth; eyesight
  castles; cathedrals; bridges; canals; railways; lighthouses; gardens; museums; libraries; prisons; theatres
  markets; sewers; skyscrapers
adjective = quiet; busy; modern; rural; coastal; hidden; forgotten; popular; difficult; practical; historic; seasonal
  natural; digital; portable; remote; crowded; delicate; heavy; gentle; bright; dusty; playful; serious; curious
  generous; stubborn; careful; clever; friendly; lonely; nervous; proud; patient; reliable; restless; sincere
  thoughtful; tired; witty; young; weathered; wooden; frozen; tropical; riverside; suburban; northern; southern
  western; medieval; Victorian; baroque; classical; contemporary; futuristic; national; global; local; municipal
  private; public; voluntary; temporary; permanent; weekly; monthly; midnight; rainy; sunny; windy; foggy; snowy
  cheap; costly; lavish; modest; minimal; complex; simple; tiny; vast; narrow; broad; steep; smooth; rough; sharp
  soft; sturdy; fragile; durable; renewable; sustainable; recycled; handmade; homemade; mechanical; chemical; medical
  legal; financial; political; cultural; poetic; comic; tragic; mysterious; magical; mythical; scientific; technical
  mathematical; logical; philosophical; moral; personal; professional; commercial; competitive; creative; critical
  crispy; spicy; sweet; sour; salty; smoky; famous; foreign; familiar; fancy; fearless; festive; fierce; flexible
  floating; fresh; frugal; funny; giant; glowing; graceful; grumpy; handsome; harmless; haunted; hungry; jolly; lazy
  legendary; lively; lucky; massive; messy; mighty; muddy; mute; neat; noble; noisy; painted; pale; peculiar; perfect
  polished; precious; pretty; punctual; radical; rare; reckless; royal; rusty; sacred; scarce; secret; selfish; shiny
  shy; silent; sleepy; slow; spare; square; stolen; strange; striped; sudden; tall; tame; tender; tough; trendy; vain
  velvet; vintage; vivid; wandering; wealthy; wild
sentence = {someone} {did} {thing} {where}.
  {someone} {thought} that {subject} {mattered} to {readers}.
  {aspect} {subject} {mattered} more than {quality} to {someone}.
  {when}, {readers} {did} {number} {nouns} and {thing}.
  {when}, {someone} {did} {thing}, because {subject} {mattered}.
  {thing} {lay} {where}, beside {thing}.
  To {deed}, {readers} first {did} {thing}.
  {field} and {field} both {mattered} {where}.
  It took {number} {units} to {deed}, said {someone}.
  {readers} {thought} that {someone} would {deed}.
when = At first; Later; Once; Every {day}; After {era}; In {place}; Before long; That {day}; In the end
  For {number} {units}; During {era}
did = carried; repaired; sold; painted; lost; found; borrowed; described; measured; replaced; admired; bought; hid
  cleaned; needed; traded
thought = believed; doubted; knew; claimed; hoped; wrote; feared; noticed; argued; proved; heard; suspected
  explained; dreamed
mattered = mattered; changed; helped; failed; returned; spread; grew; surprised; disappeared; survived; improved
  declined; worked
lay = lay; stood; waited; gleamed; leaned; rested; hung; remained; rattled; rusted; shone; turned up
stub = Describe {material}.; Define {quality}.; Explain {field}.; Sort {nouns}.; Why {food}?
unwritable = draw a picture of {thing} {where}.; create an image of {someone} with {thing}.
  draw a picture of {someone} {where}.; create an image that shows {thing} and {thing}.
"""
