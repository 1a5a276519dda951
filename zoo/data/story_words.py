"""Who and where stories are about, and words that any of them may use: lists in text, split at commas, or at semicolons."""

GIRLS = (
    "Ada, Agnes, Alma, Amina, Anna, Anouk, Astrid, Beatrice, Bella, Britta, Carla, Cecilia, Clara, Daisy, Dalia, Dora, "
    "Edith, Elena, Elsa, Emma, Esther, Eva, Farida, Fiona, Flora, Freya, Gerda, Gina, Greta, Hana, Harriet, Hazel, Heidi, "
    "Helen, Ida, Ines, Ingrid, Irene, Isla, Ivy, Jana, Jasmine, Joan, Josie, Judith, Julia, Karin, Kate, Keiko, Laila, "
    "Laura, Lena, Leonie, Lily, Linda, Lotte, Lucy, Luna, Mabel, Maria, Martha, Maya, Mei, Mila, Mira, Molly, Nadia, Nell, "
    "Nina, Nora, Olga, Olive, Paula, Pearl, Petra, Pia, Poppy, Priya, Rachel, Rita, Rosa, Ruby, Ruth, Sally, Sara, Selma, "
    "Sofia, Sonia, Stella, Sue, Tamara, Tara, Tess, Thea, Tilda, Ursula, Vera, Viola, Wanda, Yara, Zara, Zoe"
)
BOYS = (
    "Adam, Ahmed, Albert, Alex, Alfie, Amir, Anton, Arthur, Axel, Ben, Bruno, Carl, Casper, Colin, Cyril, Daniel, David, "
    "Dennis, Diego, Edgar, Eli, Emil, Eric, Ernest, Felix, Finn, Frank, Fred, Gabriel, George, Gregor, Gustav, Hamid, "
    "Hans, Harold, Henry, Hugo, Ian, Igor, Isaac, Ivan, Jack, Jacob, James, Jasper, Javier, Joel, John, Jonas, Joseph, "
    "Karim, Kenji, Klaus, Lars, Leo, Leon, Liam, Louis, Lucas, Luke, Malik, Marco, Mark, Martin, Matt, Max, Michael, Milo, "
    "Nathan, Ned, Nico, Noah, Oliver, Omar, Oscar, Otto, Pablo, Paul, Pedro, Peter, Philip, Ralph, Ravi, Robert, Robin, "
    "Roger, Rory, Sam, Samuel, Simon, Stefan, Sven, Theo, Thomas, Tim, Tobias, Tom, Victor, Vincent, Walter, Will, Xavier, "
    "Yusuf, Zeno"
)
TOWNS = (
    "Alderby, Ashcombe, Barrow Hill, Birchwood, Blackwater, Brackley, Brightsea, Cold Spring, Copperfield, Cranmoor, "
    "Deepdale, Dunmore, Eastgate, Elmford, Fairhaven, Fernley, Foxton, Glenrock, Goosebridge, Greenwick, Hartwell, "
    "Hazelbrook, Highcliff, Hollowdale, Kingsport, Lakeside, Larkmead, Lindenau, Little Marsh, Longford, Maplewood, "
    "Millbrook, Moonstone, Newbridge, Northwick, Oakham, Oldcastle, Otterburn, Pinewood, Quarrytown, Ravenshill, Redcliff, "
    "Riverton, Rosedale, Sandbay, Saltmarsh, Silverlake, Southport, Stonegate, Sunny Cove, Swanlake, Thornbury, "
    "Three Rivers, Westbrook, Whitestone, Willowdale, Windmere, Wolfden, Woodstock, Yellow Bay"
)
TRAITS = (
    "patient, stubborn, curious, nimble, sensible, talkative, inventive, daring, sleepy, ambitious, dutiful, shy, "
    "cheerful, dreamy, clever, quiet, bold, careful, clumsy, proud, generous, restless, thoughtful, brave, "
    "impatient, modest, lively, serious, polite, forgetful, hopeful, practical, gentle"
)
HABITS = (
    "liked to whistle while working, never gave up easily, always rose before dawn, collected smooth pebbles, "
    "hated to be late, often talked to trees, wore a hat in all weathers, kept a pencil behind one ear, "
    "laughed at every joke, counted steps out loud, carried a lucky button, wanted to know how things work, "
    "spoke little but saw a lot, lost at least one glove a week, never forgot a promise, drank peppermint tea all day, "
    "hummed under the breath, had freckles and bright eyes, could not sit still for long, knew every street by heart, "
    "dreamed of being famous, asked a hundred questions a day, was the youngest of seven, had strong hands and a soft voice"
)
KIN = {
    "girl": "sister, twin sister, cousin, neighbour, best friend, aunt, grandmother, godmother, oldest friend, half-sister",
    "boy": "brother, twin brother, cousin, neighbour, best friend, uncle, grandfather, godfather, oldest friend, half-brother",
}
RECEIVERS = (
    "grandmother, grandfather, great-aunt, great-uncle, teacher, mother, father, big sister, little brother, baby cousin, "
    "old nurse, godparents, stepmother, pen friend, small niece, host family"
)
EVENTS = (
    "spring fair, harvest festival, school fair, summer party, midwinter feast, village show, birthday party, "
    "town anniversary, lantern parade, county championship, family reunion, charity evening, open day, moonlight picnic, "
    "carnival, jubilee"
)
PETS = (
    "terrier, spaniel, tabby cat, black cat, parrot, tame crow, greyhound, poodle, goat, tortoise, ferret, ginger kitten, "
    "rabbit, collie, hen, magpie, puppy, white goose"
)
PET_NAMES = (
    "Biscuit, Pepper, Button, Marble, Socks, Clover, Pickle, Toffee, Bandit, Smoky, Nutmeg, Comet, Bramble, Dusty, Muffin, "
    "Pirate, Rascal, Snowball, Ziggy, Mustard, Domino, Truffle, Waffle, Captain"
)
SEASONS = {
    "spring": "the first swallows were back; blossom covered the cherry trees; a mild wind dried the puddles; "
    "the lambs were out in the fields; the days were growing longer; the crocuses had come up; "
    "melting snow filled the streams; showers chased the sun",
    "summer": "the sun blazed from a cloudless sky; the tar was soft in the heat; crickets sang in the dry grass; "
    "the evenings were long and light; thunder rumbled in the distance; even the shade was warm; "
    "the lake was as flat as glass; dust hung over the lanes",
    "autumn": "yellow leaves blew across the road; the mornings smelled of smoke; cranes flew south in long lines; "
    "chestnuts lay on the pavement; rain drummed on the roofs; fog hid the church tower; the last apples fell; "
    "the evenings drew in",
    "winter": "snow lay on every roof; icicles hung from the gutters; the pond was frozen solid; a cold wind blew from the east; "
    "frost flowers grew on the glass; it was dark by four; the chimneys smoked all day; the streets were white and silent",
}
TIMES = (
    "before breakfast, after school, on Monday morning, one Saturday, late one evening, at noon, the next day, "
    "on the first of the month, during the holidays, that very afternoon, on Sunday, at dawn, after lunch, on a Thursday, "
    "early in the week"
)
LATER = (
    "by sunset, before midnight, that evening, by the end of the week, two days later, at dusk, just in time, "
    "late on Friday, by suppertime, after nine long hours, when the moon rose, in the end, at long last, finally, "
    "by the next morning"
)
GLAD = "happy, proud, delighted, relieved, thrilled, overjoyed, pleased, grateful, beaming, speechless"
SAD = "upset, worried, annoyed, disappointed, close to tears, nervous, furious, gloomy, helpless, puzzled, ashamed, discouraged"
HOW = "quickly, slowly, carefully, calmly, eagerly, quietly, neatly, boldly, patiently, cheerfully, gently, at once"
PRIZES = (
    "a silver cup, a bag of toffees, a warm handshake, a book token, a blue ribbon, a golden coin, a week off, "
    "a basket of pears, a brass medal, free tickets to the circus, a new hat, a kiss on the cheek, a jar of plum jam, "
    "a certificate, a tin whistle"
)
WHY = (
    "{he} had promised it long ago, nobody else dared to do it, {he} had lost a bet, there was nothing on television, "
    "it was a family tradition, {he} had dreamed of it for years, a stranger had said it was impossible, "
    "{he} needed the practice, it was now or never, the {expert} had asked {him} to, {his} teacher had suggested it, "
    "a poster had caught {his} eye, the old way had failed, {he} wanted to surprise everyone, "
    "{he} was tired of being idle, the chance might never come again"
)
IDEAS = (
    "count to ten and start again, ask someone wiser, look at it from the other side, remember what the {expert} had said, "
    "take a short walk first, leave nothing to chance, try the simple way, work on through the night, "
    "do one thing at a time, use what was at hand, sleep on it, trust {his} own hands"
)
PEOPLE = "girl/boy, young woman/young man, schoolgirl/schoolboy, woman/man, student/student, young lady/lad"
PRONOUNS = {"girl": "she, her, her, herself", "boy": "he, him, his, himself"}
DAYS = "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve"
